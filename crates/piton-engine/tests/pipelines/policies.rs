//! Several sinks: who waits for whom, and what the source may forget.

use std::{
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use piton_core::Store;
use piton_engine::{Commit, Outcome, run::SinkState};
use piton_stores::MemoryStore;

use crate::parts::{Numbers, Server, fickle, pipeline, run, until};

fn store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

#[test]
fn a_slow_sink_is_given_a_reader_of_its_own_and_holds_nobody_back() {
    let (fast, slow) = (Arc::new(Server::default()), Arc::new(Server::default()));
    slow.slow_ms.store(400, Ordering::Relaxed);
    let numbers = Numbers { count: 3000, ..Numbers::default() };
    let sinks = vec![fickle("fast", true, &fast), fickle("slow", false, &slow)];
    let pipeline = pipeline(&numbers, sinks);
    let (watched, done) = (Arc::clone(&fast), Arc::clone(&slow));
    let began = Instant::now();
    let watching = thread::spawn(move || {
        until("the fast sink has everything", || watched.numbers().len() == 3000);
        let when = began.elapsed();
        done.slow_ms.store(0, Ordering::Relaxed);
        when
    });
    let summary = run(&pipeline, &store()).unwrap();
    assert_eq!(summary.outcome, Outcome::Finished);
    assert!(watching.join().unwrap() < Duration::from_secs(6));
    assert!(numbers.readers.load(Ordering::Relaxed) >= 2);
    assert_eq!(slow.numbers(), (0..3000).collect::<Vec<_>>());
}

#[test]
fn an_optional_sink_that_fails_catches_up_by_itself() {
    let (good, bad) = (Arc::new(Server::default()), Arc::new(Server::default()));
    bad.broken.store(true, Ordering::Relaxed);
    let numbers = Numbers { count: 2000, ..Numbers::default() };
    let sinks = vec![fickle("good", true, &good), fickle("bad", false, &bad)];
    let pipeline = pipeline(&numbers, sinks);
    let (watched, mended) = (Arc::clone(&good), Arc::clone(&bad));
    let mending = thread::spawn(move || {
        until("the good sink has everything", || watched.numbers().len() == 2000);
        mended.broken.store(false, Ordering::Relaxed);
    });
    let summary = run(&pipeline, &store()).unwrap();
    mending.join().unwrap();
    assert_eq!(summary.outcome, Outcome::Finished);
    assert_eq!(summary.report.sinks[1].state, SinkState::Finished);
    assert_eq!(bad.numbers(), (0..2000).collect::<Vec<_>>());
}

#[test]
fn a_required_sink_that_fails_for_good_ends_the_run() {
    let (good, bad) = (Arc::new(Server::default()), Arc::new(Server::default()));
    bad.broken.store(true, Ordering::Relaxed);
    let numbers = Numbers { count: 2000, ..Numbers::default() };
    let sinks = vec![fickle("good", true, &good), fickle("bad", true, &bad)];
    let error = run(&pipeline(&numbers, sinks), &store()).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("broken"), "{error}");
}

#[test]
fn the_source_may_forget_what_the_policy_says() {
    // Invariant 1, towards the source.
    for (commit, forgotten) in
        [(Commit::Required, 1000), (Commit::Quorum(1), 1000), (Commit::Quorum(2), 0)]
    {
        let (good, down) = (Arc::new(Server::default()), Arc::new(Server::default()));
        down.down.store(true, Ordering::Relaxed);
        let numbers = Numbers { count: 1000, endless: true, ..Numbers::default() };
        let sinks = vec![fickle("good", true, &good), fickle("down", false, &down)];
        let mut pipeline = pipeline(&numbers, sinks);
        pipeline.commit = commit;
        let signal = Arc::new(piton_engine::run::Signal::default());
        let (stopper, acknowledged) = (Arc::clone(&signal), Arc::clone(&numbers.acknowledged));
        let stopping = thread::spawn(move || {
            until("the good sink has everything", || good.numbers().len() == 1000);
            if forgotten > 0 {
                until("it is acknowledged", || acknowledged.load(Ordering::Relaxed) == forgotten);
            } else {
                thread::sleep(Duration::from_millis(300));
            }
            stopper.stop();
        });
        crate::parts::run_until(&pipeline, &store(), &signal).unwrap();
        stopping.join().unwrap();
        assert_eq!(numbers.acknowledged.load(Ordering::Relaxed), forgotten, "{commit:?}");
    }
}
