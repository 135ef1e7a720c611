//! Files of a step that begins anew when it restarts: seen whole or not at all.

use std::{
    fmt::Write as _,
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use piton_core::fault::{POINTS, STEP_POINTS};

use crate::place::{Place, RUN};

const ROWS: u64 = 600;

/// A job of which one step writes a CSV file and a file of JSON lines.
fn place() -> Place {
    Place::with(
        "job: j\nsteps:
  - step: export
    restart: from_beginning
    source: {csv: {path: in.csv}}
    checkpoint: {records: 200}
    sinks:
      rows: {csv: {path: out.csv}}
      lines: {jsonl: {path: out.jsonl}}
  - {step: after, run: [test, -s, out.csv]}
",
    )
}

/// Writes the source, and says what is to come out.
fn source(place: &Place, version: &str) -> [String; 2] {
    let (mut rows, mut lines) = ("id,v\n".to_owned(), String::new());
    for id in 0..ROWS {
        let _ = writeln!(rows, "{id},{version}");
        let _ = writeln!(lines, r#"{{"id":"{id}","v":"{version}"}}"#);
    }
    fs::write(place.path("in.csv"), &rows).unwrap();
    [rows, lines]
}

/// What a reader sees of both files; `None`: nothing is there.
fn seen(place: &Place) -> [Option<String>; 2] {
    ["out.csv", "out.jsonl"].map(|name| fs::read_to_string(place.path(name)).ok())
}

/// Does something while a reader looks at the files again and again, and once more then.
fn watched(place: &Place, allowed: &[&[String; 2]], before: bool, act: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut is_last = false;
            while !is_last {
                is_last = done.load(Ordering::Relaxed);
                for (n, found) in seen(place).into_iter().enumerate() {
                    let is_whole =
                        found.as_ref().map_or(!before, |f| allowed.iter().any(|a| a[n] == *f));
                    let length = found.as_ref().map(String::len);
                    assert!(is_whole, "a reader sees {length:?} bytes of file {n}");
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        act();
        done.store(true, Ordering::Relaxed);
    });
}

/// Kills the job at every hit of these fault points, each time from where the kill before has left it,
/// until it is done.
fn killed_at(points: &[&str], place: &Place, allowed: &[&[String; 2]], before: bool) -> u32 {
    let mut kills = 0;
    for point in points {
        for hit in 1.. {
            let mut struck = false;
            watched(place, allowed, before, || {
                struck = place.program.strike(RUN, point, hit).is_ok();
            });
            kills += u32::from(struck);
            if !struck {
                // It came to its end without coming to the point.
                break;
            }
        }
        if place.steps("j").iter().all(|(_, state)| state == "done") {
            place.ends_with(0, &["rewind", "j", "--to", "export", "--yes"]);
        }
    }
    kills
}

/// At every moment the old whole file is there, or the new whole one, or none; also between the
/// renaming and the step's being noted as done.
#[test]
fn a_half_written_file_is_never_seen() {
    let place = place();
    let first = source(&place, "first");
    let kills = killed_at(&[POINTS, STEP_POINTS].concat(), &place, &[&first], false);
    assert!(kills > 20, "only {kills} kills");
    place.run(0);
    assert_eq!(seen(&place), first.clone().map(Some));
    place.ends_with(0, &["rewind", "j", "--to", "export", "--yes"]);
    assert_eq!(seen(&place), first.clone().map(Some), "a rewind leaves what is there");
    let second = source(&place, "the second");
    // Around the renaming and after it.
    killed_at(&["sink.middle", "sink.after", "step.body"], &place, &[&first, &second], true);
    place.run(0);
    assert_eq!(seen(&place), second.map(Some));
    let left = fs::read_dir(place.path(".")).unwrap().flatten();
    let parts = left.filter(|at| at.file_name().to_string_lossy().contains("piton-part"));
    assert_eq!(parts.count(), 0);
}

/// What nobody said may be replaced is not; and the plan says how the file is written.
#[test]
fn a_file_of_somebody_else_is_replaced_only_when_asked() {
    let place = place();
    let rows = source(&place, "x");
    let plan = place.ends_with(0, &["plan", "job.yaml"]).stdout;
    assert!(plan.contains("renamed when it is whole"), "{plan}");
    fs::write(place.path("out.csv"), "precious\n").unwrap();
    let refused = place.run(3).stderr;
    assert!(refused.contains("out.csv has 9 bytes already"), "{refused}");
    assert_eq!(fs::read_to_string(place.path("out.csv")).unwrap(), "precious\n");
    place.ends_with(0, &["run", "job.yaml", "--adopt"]);
    assert_eq!(seen(&place), rows.map(Some));
}

/// Tried again in the same run, the pipeline has nothing more to do, and its file stays.
#[test]
fn a_file_that_is_in_its_place_stays_when_its_step_is_tried_again() {
    let place = Place::with(
        "job: j\nsteps:
  - step: export
    restart: from_beginning
    retry: {times: 1, pause: 1ms}
    source: {csv: {path: in.csv}}
    sinks: {rows: {csv: {path: out.csv}}}
    on_complete: {run: [sh, -c, 'wc -l < out.csv >> seen; mkdir once']}
",
    );
    let [rows, _] = source(&place, "x");
    fs::create_dir(place.path("once")).unwrap();
    place.run(1);
    assert_eq!(seen(&place)[0].as_ref(), Some(&rows), "tried twice");
    assert_eq!(place.lines("seen"), ["601", "601"]);
    fs::remove_dir(place.path("once")).unwrap();
    place.run(0);
    assert_eq!(seen(&place)[0].as_ref(), Some(&rows));
}
