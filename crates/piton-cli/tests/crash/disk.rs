//! A disk that is full, a folder that is read-only, a file that goes away, a sync that fails: the run
//! stops, says so, and nothing is past what is durable; the same command goes on once it is mended.
//!
//! Invariant 7: after a failed sync nothing goes on by hope.

use std::fs;

use piton_testkit::{Ended, Program, program::PATIENCE};

use crate::place::{Place, Sink, each};

const ROWS: u64 = 5_000;
const RUN: &[&str] = &["run", "p.yaml"];

/// Demands that a run failed, said why, and left the sink with what is acknowledged; then mends
/// it and demands the rest.
#[track_caller]
fn stops_and_resumes(place: &Place, sink: Sink, ended: &Ended, words: &[&str], mend: impl Fn()) {
    assert_eq!(ended.code, Some(1), "{sink:?}: {ended}");
    for word in words {
        assert!(ended.stderr.contains(word), "{sink:?}: '{word}' is missing: {ended}");
    }
    assert!(place.acknowledged() < place.source().len(), "{sink:?}: it had finished");
    mend();
    place.acknowledged_is_in(sink);
    if let Err(error) = place.traced().run_to(0, RUN) {
        panic!("{sink:?}: {error}");
    }
    place.exactly_once(sink);
    assert_eq!(place.acknowledged(), place.source().len(), "{sink:?}");
}

/// The program with a limit on the size of each file that it writes, in KiB.
fn limited(place: &Place, kib: u64) -> Program {
    let piton = env!("CARGO_BIN_EXE_piton");
    place.write("limited", &format!("trap '' XFSZ; ulimit -f {kib}; exec {piton} \"$@\"\n"));
    let trace = place.path("trace");
    Program::new("bash", place.folder()).with("PITON_TRACE", &trace.to_string_lossy())
}

#[test]
fn a_file_that_may_not_grow_stops_it_where_it_is_durable() {
    each(Sink::ALL, |sink| {
        let place = Place::new(20_000);
        let rest = format!("sinks: {{out: {{{}}}}}\ncheckpoint: {{records: 4000}}", sink.yaml());
        place.configure(&rest);
        let ended = limited(&place, 400).run(&["limited", "run", "p.yaml"]).unwrap();
        stops_and_resumes(&place, sink, &ended, &[sink.file(), "same command again"], || {});
    });
}

/// Runs the pipeline with the folder `disk` on a file system that is mounted as told, then on one
/// with room, in a mount namespace of its own, so that nothing is left of it. What `disk` holds at
/// the end is copied out.
#[cfg(target_os = "linux")]
const ON_A_DISK: &str = r#"
mkdir disk
mount -t tmpfs -o "$1" disk disk || exit 99
"$0" run p.yaml 2>said; echo $? >code
mount -o remount,rw,size=64m disk || exit 99
"$0" run p.yaml || exit
cp -r disk/* .
"#;

/// Demands that a run failed on a disk, said why, and finished once the disk was mended.
#[cfg(target_os = "linux")]
#[track_caller]
fn mended(options: &str, sink: Sink, rest: &str, words: &[&str]) {
    let place = Place::new(20_000);
    place.configure(&format!("{rest}\ncheckpoint: {{records: 500}}"));
    let namespace = Program::new("unshare", place.folder());
    let piton = env!("CARGO_BIN_EXE_piton");
    let ended = namespace.run(&["-rm", "sh", "-c", ON_A_DISK, piton, options]).unwrap();
    if ended.stderr.contains("unshare") || ended.code == Some(99) {
        eprintln!("skipped: this system does not let a test mount a file system: {ended}");
        return;
    }
    assert_eq!(ended.code, Some(0), "{sink:?}, {options}: {ended}");
    let read = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    let (code, said) = (read("code"), read("said"));
    assert_eq!(code.trim(), "1", "{sink:?}, {options}: {said}");
    for word in words {
        assert!(said.contains(word), "{sink:?}, {options}: '{word}' is missing: {said}");
    }
    place.exactly_once(sink);
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_or_read_only_disk_stops_it_and_room_lets_it_go_on() {
    each(Sink::ALL, |sink| {
        let settings = sink.yaml().replace("path: ", "path: disk/");
        let rest = format!("sinks: {{out: {{{settings}}}}}");
        let full = if sink.is_transactional() { "no room on the disk" } else { "the disk is full" };
        mended("size=256k", sink, &rest, &[sink.file(), full, "same command again"]);
        mended("ro", sink, &rest, &[sink.file(), "same command again"]);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_store_on_a_full_or_read_only_disk_stops_it_and_room_lets_it_go_on() {
    each([Sink::Append, Sink::Jsonl], |sink| {
        let store = "store: \"sqlite:disk/piton.db\"";
        let rest = format!("{store}\nsinks: {{out: {{{}}}}}", sink.yaml());
        mended("size=160k", sink, &rest, &["piton.db", "the disk is full", "same command again"]);
        mended("ro", sink, &rest, &["piton.db", "same command again"]);
    });
}

#[test]
fn a_sync_that_fails_is_not_tried_again() {
    for (sink, fault, words) in [
        (Sink::Jsonl, "file.sync:2=5", ["out.jsonl", "could not be made durable"]),
        (Sink::Csv, "file.sync:3=28", ["out.csv", "the disk is full"]),
        (Sink::Csv, "file.write:2=28", ["out.csv", "the disk is full"]),
        (Sink::Jsonl, "store.sync:3=5", ["piton.db", "synced"]),
        (Sink::Append, "commit.before:3=28", ["out.db", "no room on the disk"]),
    ] {
        let place = Place::to(ROWS, sink);
        let failing = place.traced().with("PITON_FAULT", fault);
        let ended = failing.run(RUN).unwrap();
        stops_and_resumes(&place, sink, &ended, &words, || {});
    }
}

#[test]
fn a_commit_whose_result_is_not_known_is_looked_up() {
    each([Sink::Upsert, Sink::Append], |sink| {
        // It took effect each time: what the sink then says decides, and nothing is done twice.
        let place = Place::to(ROWS, sink);
        let doubtful = place.traced().with("PITON_FAULT", "commit.after:3=5");
        doubtful.run_to(0, RUN).unwrap_or_else(|error| panic!("{sink:?}: {error}"));
        place.exactly_once(sink);

        // It did not, and the next does not: trying on would be hope.
        let place = Place::to(ROWS, sink);
        let doubtful = place.traced().with("PITON_FAULT", "commit.before:3=5");
        let ended = doubtful.run(RUN).unwrap();
        stops_and_resumes(&place, sink, &ended, &["out.db", "same command again"], || {});
    });
}

#[test]
fn a_file_that_goes_away_stops_it() {
    each([Sink::Append, Sink::Jsonl], |sink| {
        let place = Place::new(ROWS);
        let rest = format!("sinks: {{out: {{{}}}}}\ncheckpoint: {{records: 500}}", sink.yaml());
        place.configure_slow(4_000, &rest);
        let mut running = place.traced().start(RUN).unwrap();
        running.until("its first rows", PATIENCE, |_| place.rows_in(sink) > 0).unwrap();
        let (there, away) = (place.path(sink.file()), place.path("away"));
        fs::rename(&there, &away).unwrap();
        let ended = running.wait(PATIENCE).unwrap();
        let mend = || fs::rename(&away, &there).unwrap();
        stops_and_resumes(&place, sink, &ended, &[sink.file(), "moved"], mend);
    });
}

#[test]
fn a_source_that_goes_away_stops_it() {
    each([Sink::Append, Sink::Jsonl], |sink| {
        let place = Place::to(ROWS, sink);
        let point = if sink.is_transactional() { "commit.after" } else { "save.after" };
        place.program.strike(RUN, point, 5).unwrap();
        let (there, away) = (place.path("data.csv"), place.path("away"));
        fs::rename(&there, &away).unwrap();
        let rows = place.rows_in(sink);
        let refused = place.program.run(RUN).unwrap();
        assert!(refused.stderr.contains("data.csv"), "{refused}");
        // The store's copy of a table's checkpoint may lag: then all that is known is a wrong path.
        let code = if sink.is_transactional() { Some(2) } else { Some(3) };
        assert!(refused.code == code || refused.code == Some(3), "{refused}");
        assert_eq!(place.rows_in(sink), rows);
        fs::rename(&away, &there).unwrap();
        place.finish();
        place.exactly_once(sink);
    });
}

#[test]
fn a_store_that_goes_away_stops_it() {
    each([Sink::Append, Sink::Jsonl], |sink| {
        let place = Place::new(ROWS);
        let rest = format!("sinks: {{out: {{{}}}}}\ncheckpoint: {{records: 500}}", sink.yaml());
        place.configure_slow(2_000, &rest);
        let mut running = place.traced().start(RUN).unwrap();
        running.until("its first rows", PATIENCE, |_| place.rows_in(sink) > 0).unwrap();
        let (there, away) = (place.path("piton.db"), place.path("away.db"));
        let side = |path: &std::path::Path, end: &str| {
            std::path::PathBuf::from(format!("{}{end}", path.display()))
        };
        let swap = |from: &std::path::Path, to: &std::path::Path| {
            for end in ["-wal", "-shm", ""] {
                fs::rename(side(from, end), side(to, end)).unwrap();
            }
        };
        swap(&there, &away);
        let ended = running.wait(PATIENCE).unwrap();
        stops_and_resumes(&place, sink, &ended, &["piton.db", "removed"], || swap(&away, &there));
    });
}

/// A store that nobody can write is read by those who only look.
#[cfg(target_os = "linux")]
#[test]
fn a_store_on_a_read_only_disk_is_looked_at() {
    let place = Place::new(10);
    place.configure("store: \"sqlite:disk/piton.db\"\nsinks: {out: {jsonl: {path: out.jsonl}}}");
    place.write(
        "look",
        r#"mkdir disk
        mount -t tmpfs disk disk || exit 99
        "$0" run p.yaml || exit 98
        mount -o remount,ro disk || exit 99
        export PITON_STORE=sqlite:disk/piton.db
        "$0" status >status && "$0" history p >>status && "$0" status p >>status || exit 1
        "$0" pause p 2>said; [ $? = 1 ]
        "#,
    );
    let namespace = Program::new("unshare", place.folder());
    let ended =
        namespace.run(&["-rm", "sh", "-c", ". ./look", env!("CARGO_BIN_EXE_piton")]).unwrap();
    if ended.stderr.contains("unshare") || ended.code == Some(99) {
        eprintln!("skipped: this system does not let a test mount a file system: {ended}");
        return;
    }
    assert_eq!(ended.code, Some(0), "{ended}");
    let read = |name: &str| fs::read_to_string(place.path(name)).unwrap();
    assert!(read("status").contains("finished"), "{}", read("status"));
    assert!(read("said").contains("cannot be written"), "{}", read("said"));
}
