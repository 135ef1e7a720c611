//! The async form: on tokio, on another executor, and with calls that are cancelled.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod support;

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use piton::{CursorError, Options, Policy, Store, WhenHeld, asynchronous::Cursor};

use self::support::Place;

async fn work(store: &Arc<dyn Store>, job: &str, upto: u64) -> Result<u64, CursorError> {
    let checkpoint = Policy::Fixed { every: None, records: Some(10) };
    let options = Options { checkpoint, ..Default::default() };
    let mut cursor = Cursor::<u64>::open_with(store, job, options).await?;
    let mut total: u64 = cursor.state().await?.unwrap_or(0);
    for n in cursor.position().map_or(0, |n| n + 1)..upto {
        total += n;
        cursor.set_state(&total)?;
        cursor.put(&format!("n{}", n % 3), &n)?;
        cursor.passed(n).await?;
    }
    let kept: u64 = cursor.state().await?.unwrap();
    cursor.stop().await?;
    Ok(kept)
}

async fn twice(store: Arc<dyn Store>, job: &'static str) {
    assert_eq!(work(&store, job, 25).await.unwrap(), 300);
    assert_eq!(work(&store, job, 50).await.unwrap(), 1225);
    let cursor = Cursor::<u64>::open(&store, job).await.unwrap();
    assert_eq!((cursor.position(), cursor.records()), (Some(&49), 50));
    let latest = [("", 1225), ("n0", 48), ("n1", 49), ("n2", 47)];
    let entries = cursor.entries::<u64>().await.unwrap();
    assert!(entries.iter().map(|(key, n)| (key.as_str(), *n)).eq(latest), "{entries:?}");
    cursor.finish().await.unwrap();
    assert_eq!(Cursor::<u64>::open(&store, job).await.unwrap().position(), None);
}

#[tokio::test(flavor = "current_thread")]
async fn on_one_thread_of_tokio() {
    twice(Place::new().store(), "one").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_many_threads_of_tokio() {
    let place = Place::new();
    let store = place.store();
    let tasks = ["a", "b", "c"].map(|job| tokio::spawn(twice(store.clone(), job)));
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn on_another_executor_with_either_store() {
    let place = Place::new();
    futures_executor::block_on(twice(place.store(), "job"));
    futures_executor::block_on(twice(piton::open("memory:").unwrap(), "job"));
}

/// The blocking form may be called wherever blocking is no harm, also within an executor.
#[test]
fn the_blocking_form_within_an_executor() {
    let store = piton::open("memory:").unwrap();
    futures_executor::block_on(async {
        let mut cursor = piton::Cursor::<u64>::open(&store, "job").unwrap();
        cursor.passed(1).unwrap();
        cursor.stop().unwrap();
    });
}

#[tokio::test(flavor = "current_thread")]
async fn waiting_for_a_claim_leaves_the_thread_to_others() {
    let place = Place::new();
    let store = place.store();
    let first = Cursor::<u64>::open(&store, "job").await.unwrap();
    let options = Options { when_held: WhenHeld::Wait, ..Default::default() };
    let waiting = Cursor::<u64>::open_with(&store, "job", options);
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        first.stop().await.unwrap();
    };
    let (second, ()) = tokio::join!(waiting, release);
    assert_eq!(second.unwrap().epoch(), 2);
}

/// A save whose future is dropped may have happened or not; the next one finds out.
#[test]
fn a_cancelled_save_is_found_out() {
    let place = Place::new();
    let store = place.store();
    futures_executor::block_on(async {
        let options = Options { checkpoint: Policy::Off, ..Default::default() };
        let mut cursor = Cursor::<u64>::open_with(&store, "job", options).await.unwrap();
        for n in 0..50 {
            cursor.put("n", &n).unwrap();
            cursor.passed(n).await.unwrap();
            let mut save = pin!(cursor.save());
            // Asked for, and not waited for.
            let polled = save.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(polled, Poll::Pending | Poll::Ready(Ok(()))), "{polled:?}");
        }
        cursor.save().await.unwrap();
        assert_eq!((cursor.records(), cursor.position()), (50, Some(&49)));
        assert_eq!(cursor.get::<u64>("n").await.unwrap(), Some(49));
        cursor.stop().await.unwrap();
    });
    assert_eq!(place.position("job"), Some(49));
}
