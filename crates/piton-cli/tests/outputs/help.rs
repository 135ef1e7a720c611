//! Help, completions, the manual page.

use crate::session::Session;

#[test]
fn every_command_explains_itself() {
    let mut session = Session::new();
    session.types("--help");
    for command in [
        "run",
        "plan",
        "init",
        "schema",
        "status",
        "history",
        "reset",
        "rewind",
        "pause",
        "resume",
        "cancel",
        "dead-letters",
        "dead-letters list",
        "dead-letters count",
        "dead-letters show",
        "dead-letters replay",
        "dead-letters drop",
        "backup",
        "export",
        "import",
        "completions",
        "man",
    ] {
        session.types(&format!("{command} --help"));
    }
    insta::assert_snapshot!(session.seen());
}

#[test]
fn bad_usage_says_what_is_usual() {
    let mut session = Session::new();
    session.types("statu");
    session.types("run");
    session.types("run p.yaml --limit 3");
    session.types("status --max-lag 5m");
    session.types("status --check --max-lag 5");
    session.types("reset p --keep --truncate");
    session.types("rewind p");
    session.types("completions ksh");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn the_manual_page_names_every_command_and_no_other_page() {
    let page = Session::new().quietly("man").stdout;
    for heading in [".SH PITON RUN", ".SH PITON DEAD\\-LETTERS REPLAY", ".SH EXIT CODES"] {
        assert!(page.contains(heading), "{heading}");
    }
    assert_eq!(page.matches("(1)").count(), 0, "{page}");
}
