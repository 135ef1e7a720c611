//! Jobs of the library: what a restart skips, recovers and resumes, and what SIGKILL leaves.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(unix)]

mod support;

use std::{
    fs::File,
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use piton::{
    Options, Policy, Store, WhenHeld,
    core::{Control, Event},
    job::{Job, JobError, JobOptions, Ran, Step},
    rusqlite::Connection,
};
use piton_testkit::{Dice, program::PATIENCE};

use self::support::{Place, is_child, pairs};

type Done = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn nothing(_: &mut Step<'_>) -> Done {
    Ok(())
}

fn steps(place: &Place) -> Vec<(String, String)> {
    let conn = Connection::open(place.path("piton.db")).unwrap();
    let sql = "SELECT partition, json_extract(position, '$.state') || ' '
        || json_extract(position, '$.attempt') FROM checkpoints WHERE sink = 'step'
        ORDER BY partition";
    pairs(&conn, sql)
}

fn on(place: &Place) -> Job {
    Job::open(&place.store(), "crm").unwrap()
}

#[test]
fn a_restart_skips_what_is_done_and_recovers_what_is_not() {
    let place = Place::new();
    let mut job = on(&place);
    assert_eq!(job.step("customer", nothing).unwrap(), Ran::Now);
    let failed = job.step("invoice", |step| {
        assert!(!step.recovering());
        step.step("lines", nothing)?;
        step.step("taxes", |_| Err("no rate for 2027".into()))?;
        Ok(())
    });
    let error = failed.unwrap_err().to_string();
    assert!(error.contains("'invoice/taxes' of 'crm' failed in attempt 1: no rate"), "{error}");
    drop(job);
    let mut job = on(&place);
    let mut recovered = 0;
    assert_eq!(job.step("customer", |_| panic!("it is done")).unwrap(), Ran::Before);
    let ran = job.step("invoice", |step| {
        assert_eq!((step.recovering(), step.attempt()), (true, 2));
        step.on_recover(|| {
            recovered += 1;
            Ok(())
        })?;
        assert_eq!(step.step("lines", |_| panic!("it is done"))?, Ran::Before);
        step.step("taxes", |step| {
            assert!(step.recovering());
            Ok(())
        })?;
        Ok(())
    });
    assert_eq!((ran.unwrap(), recovered), (Ran::Now, 1));
    job.finish().unwrap();
    let found = steps(&place);
    let wanted = [
        (".", "done 1"),
        ("customer", "done 1"),
        ("invoice", "done 2"),
        ("invoice/lines", "done 1"),
        ("invoice/taxes", "done 2"),
    ];
    let found: Vec<_> = found.iter().map(|(path, state)| (&**path, &**state)).collect();
    assert_eq!(found, wanted);
}

#[test]
fn a_finished_job_has_nothing_to_do_and_other_parameters_are_another_job() {
    let place = Place::new();
    let store = place.store();
    let open = |date: &str, again| {
        let params = vec![("date".to_owned(), date.to_owned())];
        Job::open_with(&store, "nightly", &JobOptions { params, again, ..Default::default() })
    };
    for (date, again, named, ran) in [
        ("1", false, "nightly(date=1)", Ran::Now),
        ("1", false, "nightly(date=1)", Ran::Before),
        ("2", false, "nightly(date=2)", Ran::Now),
        ("1", true, "nightly(date=1)#2", Ran::Now),
        ("1", false, "nightly(date=1)#2", Ran::Before),
        ("1", true, "nightly(date=1)#3", Ran::Now),
    ] {
        let mut job = open(date, again).unwrap();
        assert_eq!((job.instance(), job.is_finished()), (named, ran == Ran::Before));
        assert_eq!(job.step("load", nothing).unwrap(), ran, "{named}");
        job.finish().unwrap();
    }
}

#[test]
fn what_cannot_be_is_named_and_nothing_is_begun() {
    let place = Place::new();
    let mut job = on(&place);
    for name in ["", "a/b", "."] {
        assert!(matches!(job.step(name, nothing), Err(JobError::Name { .. })));
    }
    job.step("a", nothing).unwrap();
    assert!(matches!(job.step("a", nothing), Err(JobError::Twice { .. })));
    let held = Job::open(&place.store(), "crm").err().unwrap();
    assert!(matches!(held, JobError::Held { .. }), "{held}");
    job.stop().unwrap();
    let taken = piton::Cursor::<u64>::open(&place.store(), "loop").unwrap();
    taken.stop().unwrap();
    let foreign = Job::open(&place.store(), "loop").err().unwrap();
    assert!(matches!(foreign, JobError::Mismatch { .. }), "{foreign}");
}

fn control(store: &Arc<dyn Store>, control: Control) {
    let event = Event {
        id: 0,
        pipeline: "crm".into(),
        at: jiff::Timestamp::now(),
        who: "me".into(),
        what: control.as_str().into(),
        detail: String::new(),
    };
    pollster::block_on(store.set_control("crm", control, event)).unwrap();
}

#[test]
fn an_operator_pauses_and_cancels_it() {
    let place = Place::new();
    let mut job = on(&place);
    let store = place.store();
    control(&store, Control::Pause);
    let began = Instant::now();
    std::thread::sleep(Duration::from_millis(1500));
    let resumes = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        control(&store, Control::Run);
    });
    job.step("a", nothing).unwrap();
    assert!(began.elapsed() > Duration::from_millis(2400), "it waited");
    resumes.join().unwrap();
    control(&place.store(), Control::Cancel);
    let cancelled = job.step("b", |step| {
        let mut n = 0_u64;
        loop {
            n += 1;
            std::thread::sleep(Duration::from_millis(1));
            step.passed(&n)?;
        }
    });
    assert!(matches!(cancelled, Err(JobError::Cancelled { .. })), "{cancelled:?}");
}

/// A step that dies again and again is not begun for ever.
#[test]
fn a_step_that_crashes_its_process_is_parked() {
    let place = Place::new();
    let child = place.child("child_dies");
    for _ in 0..100 {
        let ended = child.program.run(&child.args()).unwrap();
        assert_eq!(ended.signal, Some(9), "{ended}");
    }
    let parked = on(&place).step("deadly", nothing).unwrap_err();
    assert!(matches!(parked, JobError::Parked { crashes: 100, .. }), "{parked}");
}

#[test]
fn child_dies() {
    if !is_child("child_dies") {
        return;
    }
    let store = piton::open("sqlite:piton.db").unwrap();
    let mut job = Job::open(&store, "crm").unwrap();
    job.step("deadly", |_| {
        std::process::Command::new("kill")
            .args(["-KILL", &std::process::id().to_string()])
            .status()?;
        std::thread::sleep(PATIENCE);
        Ok(())
    })
    .unwrap();
}

const CUSTOMERS: u64 = 40;
const INVOICES: u64 = 50;

/// A job with steps in steps and positions in them; each effect is a line.
#[test]
fn child_migrates() {
    if !is_child("child_migrates") {
        return;
    }
    let file = File::options().create(true).append(true).open("effects").unwrap();
    let says = |line: String| (&file).write_all(format!("{line}\n").as_bytes()).unwrap();
    let store = piton::open("sqlite:piton.db").unwrap();
    let cursor = Options {
        when_held: WhenHeld::Wait,
        checkpoint: Policy::Fixed { every: None, records: Some(7) },
        ..Default::default()
    };
    let options = JobOptions { cursor, ..Default::default() };
    let mut job = Job::open_with(&store, "crm", &options).unwrap();
    for customer in 0..CUSTOMERS {
        let migrates = |step: &mut Step<'_>| -> Done {
            step.on_recover(|| {
                says(format!("recover {customer}"));
                Ok(())
            })?;
            for invoice in step.position::<u64>()?.map_or(0, |n| n + 1)..INVOICES {
                says(format!("{customer} {invoice}"));
                step.passed(&invoice)?;
            }
            step.step("lines", |_| {
                says(format!("{customer} lines"));
                Ok(())
            })?;
            Ok(())
        };
        job.step(&customer.to_string(), migrates).unwrap();
    }
    job.finish().unwrap();
}

/// Nothing is lost, done steps are skipped, and what is repeated lies after the last checkpoint.
#[test]
fn killed_anywhere_a_job_loses_nothing_and_repeats_little() {
    let place = Place::new();
    let child = place.child("child_migrates");
    let mut dice = Dice::new();
    let lines = || std::fs::read_to_string(place.path("effects")).unwrap_or_default();
    let mut kills = 0;
    for round in 0..24 {
        let before = lines().lines().count();
        if round % 2 == 0 {
            let point = ["save.before", "save.after"][round / 2 % 2];
            child.program.strike(&child.args(), point, dice.between(1, 12)).unwrap();
            kills += 1;
            continue;
        }
        let more = dice.between(1, 120) as usize;
        let mut running = child.program.start(&child.args()).unwrap();
        let grown = || lines().lines().count() >= before + more;
        if running.until("progress", PATIENCE, |_| grown()).is_err() {
            break;
        }
        running.kill().unwrap();
        kills += 1;
    }
    child.program.run_to(0, &child.args()).unwrap();
    let text = lines();
    let mut repeated = 0;
    for customer in 0..CUSTOMERS {
        let mine = |what: String| text.lines().filter(|line| **line == what).count();
        for invoice in 0..INVOICES {
            let times = mine(format!("{customer} {invoice}"));
            assert!(times >= 1, "invoice {invoice} of customer {customer} is lost");
            repeated += times - 1;
        }
        assert!(mine(format!("{customer} lines")) >= 1);
    }
    assert!(kills > 12, "only {kills} kills");
    assert!(repeated <= kills * 14, "{repeated} repeated by {kills} kills");
    let recovered = text.lines().filter(|line| line.starts_with("recover")).count();
    assert!((1..=kills).contains(&recovered), "{recovered} recoveries of {kills} kills");
    assert!(steps(&place).iter().all(|(_, state)| state.starts_with("done")));
}

/// A small step costs one commit, and a job of ten thousand is resumed at once.
#[test]
fn ten_thousand_small_steps_are_as_many_commits_and_resume_at_once() {
    const STEPS: usize = 10_000;
    let place = Place::on_disk();
    let mut job = on(&place);
    for n in 0..STEPS - 1 {
        job.step(&n.to_string(), nothing).unwrap();
    }
    job.stop().unwrap();
    let began = Instant::now();
    let mut job = on(&place);
    let mut ran = 0;
    for n in 0..STEPS {
        ran += usize::from(job.step(&n.to_string(), nothing).unwrap() == Ran::Now);
    }
    assert_eq!(ran, 1);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    job.finish().unwrap();
}
