//! The harness catches what it is there to catch: four builds, each with one known fault, fail the
//! check that the good build passes.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use piton_testkit::{Program, Report, program::PATIENCE};

use crate::place::{Place, Sink};

/// The program with known-bad behaviour, built beside the good one.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let target = Path::new(env!("CARGO_BIN_EXE_piton")).parent().unwrap().parent().unwrap();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--offline", "-p", "piton-cli", "--features", "known-bad"]);
        build.args(["--bin", "piton-known-bad", "--target-dir"]).arg(target);
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(status.success(), "piton-known-bad could not be built");
        target.join("debug/piton-known-bad")
    })
}

/// A place whose program is good, or bad in one way.
fn place(sink: Sink, bad: Option<&str>) -> Place {
    let mut place = Place::to(5_000, sink);
    if let Some(bad) = bad {
        place.program = Program::new(binary(), place.folder()).with("PITON_KNOWN_BAD", bad);
    }
    place
}

/// What went wrong, as the offline checker sees it.
type Checked = Result<(), String>;

fn exactly_once(place: &Place, sink: Sink) -> Checked {
    let Report { missing, repeated, foreign } = place.source().compare(&place.held_by(sink));
    let found = [(missing.count, "lost"), (repeated.count, "repeated"), (foreign.count, "foreign")];
    let found = found.iter().filter(|(count, _)| *count > 0);
    let found: Vec<_> = found.map(|(count, what)| format!("{count} {what}")).collect();
    if found.is_empty() { Ok(()) } else { Err(found.join(", ")) }
}

/// Demands that the good program passes a check, and the bad one fails it for the right reason.
#[track_caller]
fn caught(bad: &str, why: &str, check: impl Fn(Option<&str>) -> Checked) {
    assert_eq!(check(None), Ok(()), "the good program fails");
    let found = check(Some(bad)).expect_err("the known-bad program was not caught");
    assert!(found.contains(why), "caught for another reason: {found}");
}

/// What a source was told, compared with what a sink holds.
fn told_no_more_than_held(place: &Place, sink: Sink) -> Checked {
    let (told, held) = (place.acknowledged(), place.rows_in(sink));
    if told <= held { Ok(()) } else { Err(format!("{told} acknowledged, {held} held")) }
}

#[test]
fn a_checkpoint_before_the_sink_is_durable_is_caught() {
    caught("checkpoint_before_durable", "454 lost", |bad| {
        let place = place(Sink::Jsonl, bad);
        place.traced().strike(&["run", "p.yaml"], "sink.begin", 3).unwrap();
        place.finish();
        exactly_once(&place, Sink::Jsonl)
    });
}

#[test]
fn a_sink_that_ignores_the_epoch_is_caught() {
    caught("ignore_epoch", "repeated", |bad| {
        let place = place(Sink::Append, bad);
        let sink = Sink::Append.yaml();
        let rest = "claim: {lease: 1s}\ncheckpoint: {records: 500}";
        place.configure(&format!("sinks: {{out: {{{sink}}}}}\n{rest}"));
        let sleeper = place.asleep_at("commit.after", 3);
        place.finish();
        sleeper.thaw().unwrap();
        sleeper.wait(PATIENCE).unwrap();
        exactly_once(&place, Sink::Append)
    });
}

#[test]
fn an_early_acknowledgement_is_caught() {
    for (sink, point) in [(Sink::Upsert, "commit.before"), (Sink::Jsonl, "sink.middle")] {
        caught("ack_early", "acknowledged", |bad| {
            let place = place(sink, bad);
            place.traced().strike(&["run", "p.yaml"], point, 3).unwrap();
            told_no_more_than_held(&place, sink)
        });
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_skipped_sync_is_caught_when_the_power_goes() {
    use piton_testkit::power::PowerLog;

    for sink in [Sink::Append, Sink::Jsonl] {
        let log = PowerLog::new().unwrap();
        caught("skip_fsync", "acknowledged", |bad| {
            log.forget().unwrap();
            let place = place(sink, bad);
            let program = log.watch(place.traced());
            program.strike(&["run", "p.yaml"], "acknowledge", 6).unwrap();
            let files = [sink.file(), "out.db-wal", "piton.db", "piton.db-wal"];
            let files = files.map(|file| place.path(file));
            log.lose(&files.each_ref().map(PathBuf::as_path)).unwrap();
            told_no_more_than_held(&place, sink)?;
            place.finish();
            exactly_once(&place, sink)
        });
    }
}
