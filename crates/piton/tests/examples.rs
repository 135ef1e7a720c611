//! The examples are run as a user runs them, killed where they say that it does no harm, and are
//! what the documentation shows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(unix)]

mod support;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use piton::rusqlite::Connection;
use piton_testkit::{Program, program::PATIENCE};

use self::support::{Place, pairs};

const NAMES: [&str; 7] =
    ["resume", "out_of_order", "transaction", "messages", "state", "asynchronous", "steps"];

fn example(name: &str, place: &Place) -> Program {
    let test = env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    let hint = "`cargo test -p piton` builds the examples, too";
    assert!(built.exists(), "{} is not built: {hint}", built.display());
    Program::new(built, place.folder())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn source(name: &str) -> String {
    fs::read_to_string(root().join(format!("crates/piton/examples/{name}.rs"))).unwrap()
}

#[test]
fn the_loop_resumes_where_it_was_killed() {
    let place = Place::new();
    let resume = example("resume", &place);
    let mut running = resume.start(&[]).unwrap();
    let saved = |_: &_| place.path("piton.db").exists() && place.position("import").is_some();
    running.until("a save", PATIENCE, saved).unwrap();
    running.kill().unwrap();
    let stands = place.position("import").unwrap();
    let ended = resume.run_to(0, &[]).unwrap();
    assert!(ended.stdout.contains(&format!("starting at record {}", stands + 1)), "{ended}");
    assert!(ended.stdout.contains("done"), "{ended}");
    assert!(place.checkpoints().is_empty(), "one row while it is under way, none after");
}

/// Invariant 5: however often it is killed, each payment counts once.
#[test]
fn payments_count_once() {
    // On a disk, where a commit takes its time and a kill finds it at work.
    let place = Place::on_disk();
    let program = example("transaction", &place);
    let balances = |path: &Path| {
        let conn = Connection::open(path).unwrap();
        pairs(&conn, "SELECT name, CAST(balance AS TEXT) FROM accounts ORDER BY name")
    };
    let records = || -> u64 {
        let Ok(conn) = Connection::open(place.path("bank.db")) else { return 0 };
        let sql = "SELECT records FROM piton_checkpoints WHERE pipeline = 'payments'";
        conn.query_row(sql, [], |row| row.get(0)).unwrap_or(0)
    };
    let mut killed = 0;
    for round in 1..=3 {
        let mut running = program.start(&[]).unwrap();
        let progress = running.until("payments", PATIENCE, |_| records() > round * 100);
        killed += u64::from(progress.is_ok() && running.kill().is_ok());
    }
    assert!(killed > 0, "it was never killed at work");
    for _ in 0..2 {
        program.run_to(0, &[]).unwrap();
        let sums: Vec<(String, String)> = [("ann", 0), ("bob", 1), ("cid", 2)]
            .map(|(name, rest)| {
                let sum: u64 = (0..1000).filter(|n| n % 3 == rest).sum();
                (name.to_owned(), sum.to_string())
            })
            .to_vec();
        assert_eq!(balances(&place.path("bank.db")), sums);
    }
}

/// Four messages are read and saved, with their total; four more are lost in a crash; it resumes at
/// the fifth, reads five more and saves.
#[test]
fn messages_are_counted_with_their_position() {
    let place = Place::new();
    let messages = example("messages", &place);
    let crashed = messages.run(&[]).unwrap();
    assert_eq!(crashed.code, None, "{crashed}");
    assert!(crashed.stdout.contains("begins with message 1; the total so far is 0"), "{crashed}");
    assert_eq!(place.position("messages"), Some(4));
    let resumed = messages.run_to(0, &[]).unwrap();
    let total: u64 = (1..=4).sum();
    let begins = format!("begins with message 5; the total so far is {total}");
    assert!(resumed.stdout.contains(&begins), "{resumed}");
    let total: u64 = (1..=9).sum();
    assert!(resumed.stdout.contains(&format!("the total is Some({total})")), "{resumed}");
    assert_eq!(place.position("messages"), Some(9));
    let conn = Connection::open(place.path("piton.db")).unwrap();
    let state = pairs(&conn, "SELECT pipeline, json FROM state");
    assert_eq!(state, [("messages".to_owned(), total.to_string())]);
}

#[test]
fn a_job_goes_on_inside_the_step_at_which_it_was_killed() {
    let place = Place::new();
    let steps = example("steps", &place);
    let stands = || {
        let store = Some(place.path("piton.db")).filter(|path| path.exists())?;
        let conn = Connection::open(store).ok()?;
        let of = "SELECT position FROM checkpoints WHERE sink = 'position'";
        conn.query_row(of, [], |row| row.get::<_, String>(0)).ok()?.parse::<u64>().ok()
    };
    let mut running = steps.start(&[]).unwrap();
    running.until("a save", PATIENCE, |_| stands().is_some()).unwrap();
    running.kill().unwrap();
    let stands = stands().unwrap();
    let ended = steps.run_to(0, &[]).unwrap();
    let begins = format!("attempt 2 begins at customer {}", stands + 1);
    assert!(ended.stdout.contains(&begins), "{ended}");
    for file in ["report.txt", "north.sent", "south.sent"] {
        assert!(place.path(file).exists(), "{file}");
    }
    assert!(steps.run_to(0, &[]).unwrap().stdout.contains("customers are skipped"));
}

#[test]
fn the_others_run_to_their_end() {
    let place = Place::new();
    for name in ["out_of_order", "asynchronous"] {
        example(name, &place).run_to(0, &[]).unwrap();
    }
    let ends = [("thumbnails", "finished"), ("fetch", "finished")];
    assert_eq!(place.runs(), ends.map(|(job, end)| (job.to_owned(), end.to_owned())));
    assert!(place.checkpoints().is_empty());
    for _ in 0..2 {
        let ended = example("state", &place).run_to(0, &[]).unwrap();
        assert_eq!(ended.stdout, "ann has 6\nbob has 9\ncid has 4\n");
    }
}

#[test]
fn each_is_short() {
    for name in NAMES {
        let lines = source(name).lines().count();
        assert!(lines < 40, "{name} has {lines} lines");
    }
}

/// A block of code behind `<!-- examples/NAME.rs -->` is that example, without its first comment.
#[test]
fn the_documentation_shows_the_examples() {
    let page = fs::read_to_string(root().join("docs/library.md")).unwrap();
    let mut shown = BTreeMap::new();
    for part in page.split("<!-- examples/").skip(1) {
        let (name, rest) = part.split_once(".rs -->\n").unwrap();
        let code = rest.strip_prefix("```rust,no_run\n").unwrap().split_once("```").unwrap().0;
        shown.insert(name.to_owned(), code.to_owned());
    }
    assert_eq!(shown.len(), NAMES.len());
    for name in NAMES {
        let source = source(name);
        let (_, code) = source.split_once("\n\n").filter(|(_, c)| c.starts_with("use ")).unwrap();
        assert_eq!(shown.get(name).map(String::as_str), Some(code), "{name}");
    }
}
