//! What operators and programs do to a running processor, on a real server.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod processor_place;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use piton::{
    core::{Control, Event},
    postgres::{CheckpointOrder, Database, Message, Processor, ProcessorError},
};
use tokio::time::sleep;
use tokio_postgres::Transaction;

use self::processor_place::{
    TRIGGER, append, append_many, count, place, send, send_at_once, sent, stands, until_sent,
};

async fn control(database: &Database, control: Control) {
    let event = Event {
        id: 0,
        pipeline: "mailer".to_owned(),
        at: jiff::Timestamp::now(),
        who: "me".to_owned(),
        what: control.as_str().to_owned(),
        detail: String::new(),
    };
    database.store().set_control("mailer", control, event).await.unwrap();
}

/// It keeps its claim, and what is appended meanwhile waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_processor_idles_and_goes_on() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..2).await;
    let steer = async {
        until_sent(&client, 2).await;
        control(&database, Control::Pause).await;
        sleep(Duration::from_millis(1500)).await;
        append(&client, 2..4).await;
        sleep(Duration::from_millis(1500)).await;
        assert_eq!(count(&client).await, 2, "paused");
        assert_eq!(database.store().holders("mailer").await.unwrap().len(), 1);
        control(&database, Control::Run).await;
        until_sent(&client, 4).await;
        control(&database, Control::Pause).await;
        sleep(Duration::from_millis(1200)).await;
    };
    // The end is heeded while it is paused, too.
    Processor::new(&database, "mailer").run_until(send, steer).await.unwrap();
    assert_eq!(sent(&client).await, [0, 1, 2, 3]);

    // A new run waits, and sees by itself that it may go on.
    append(&client, 4..5).await;
    let resumed = async {
        sleep(Duration::from_millis(800)).await;
        assert_eq!(count(&client).await, 4, "paused before it began");
        let resume = "SELECT piton.resume_processor('mailer')";
        assert!(client.query_one(resume, &[]).await.unwrap().get::<_, bool>(0));
        until_sent(&client, 5).await;
    };
    Processor::new(&database, "mailer").run_until(send, resumed).await.unwrap();
}

/// The batch at hand is finished; then nothing runs until somebody says so who knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_processor_ends_and_runs_again_only_when_told() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..1).await;
    let handler = async |batch: &[Message], tx: &Transaction<'_>| {
        control(&database, Control::Cancel).await;
        sleep(Duration::from_millis(1100)).await;
        send(batch, tx).await
    };
    // Stored last: an order that changes the processor waits for a transaction that has saved.
    let processor = Processor::new(&database, "mailer").checkpoint(CheckpointOrder::Last);
    let error = processor.run(handler).await.unwrap_err();
    assert!(matches!(error, ProcessorError::Cancelled { .. }), "{error}");
    assert_eq!(sent(&client).await, [0], "the batch at hand was finished");
    let runs = database.store().runs("mailer", 9).await.unwrap();
    assert_eq!(runs[0].end, Some(piton::core::RunEnd::Cancelled));

    append(&client, 1..2).await;
    let error = Processor::new(&database, "mailer").run(send).await.unwrap_err();
    assert!(matches!(error, ProcessorError::Cancelled { .. }), "{error}");
    assert!(database.store().holders("mailer").await.unwrap().is_empty());
    let again = Processor::new(&database, "mailer").again();
    again.run_until(send, until_sent(&client, 2)).await.unwrap();
    assert_eq!(database.store().control("mailer").await.unwrap(), Control::Run);
}

/// Invariant 6: what lies after the checkpoint is repeated, by the same ids, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_transaction_a_batch_is_handled_at_least_once() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..5).await;
    let seen = Mutex::new(HashMap::<String, u32>::new());
    let calls = AtomicU32::new(0);
    let handler = async |batch: &[Message]| {
        for message in batch {
            *seen.lock().unwrap().entry(message.id.clone()).or_default() += 1;
            if calls.fetch_add(1, Ordering::Relaxed) == 2 {
                return Err("the post office is closed".into());
            }
        }
        Ok(())
    };
    let done = async {
        while stands(&client, 1).await.is_none() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let processor = Processor::new(&database, "mailer");
    processor.run_at_least_once(handler, done).await.unwrap();
    let mut times: Vec<u32> = seen.into_inner().unwrap().into_values().collect();
    times.sort_unstable();
    assert_eq!(times, [1, 1, 2, 2, 2]);
    assert_eq!(stands(&client, 1).await, Some(processor_place::last(&client).await));
}

/// The other order: the handler works without the lock of the checkpoint's row.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_stored_last_is_not_locked_while_the_handler_works() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..1).await;
    for (order, wanted) in [(CheckpointOrder::Last, true), (CheckpointOrder::First, false)] {
        let other = database.connect().await.unwrap();
        let is_free = AtomicBool::new(false);
        let handler = async |batch: &[Message], tx: &Transaction<'_>| {
            let lock = "SELECT FROM piton.anchors WHERE pipeline = 'mailer' FOR UPDATE NOWAIT";
            is_free.store(other.execute(lock, &[]).await.is_ok(), Ordering::Relaxed);
            send(batch, tx).await
        };
        let before = count(&client).await;
        let processor = Processor::new(&database, "mailer").checkpoint(order);
        processor.run_until(handler, until_sent(&client, before + 1)).await.unwrap();
        assert_eq!(is_free.load(Ordering::Relaxed), wanted, "{order:?}");
        append(&client, before + 1..before + 2).await;
    }
}

/// A batch is bounded by its count, and by how long its transaction is open.
#[tokio::test(flavor = "multi_thread")]
async fn batches_are_as_small_as_a_slow_handler_asks_for() {
    let Some((database, client)) = place().await else { return };
    append_many(&client, 0..600).await;
    let sizes = Mutex::new(Vec::new());
    let handler = async |batch: &[Message], tx: &Transaction<'_>| {
        sizes.lock().unwrap().push(batch.len());
        sleep(Duration::from_millis(2) * batch.len() as u32).await;
        send_at_once(batch, tx).await
    };
    let processor =
        Processor::new(&database, "mailer").batch(500).max_open(Duration::from_millis(60));
    processor.run_until(handler, until_sent(&client, 600)).await.unwrap();
    let sizes = sizes.into_inner().unwrap();
    assert_eq!(sizes[0], 100, "nothing is known of the handler yet");
    assert!(sizes[1..].iter().all(|size| *size <= 30), "{sizes:?}");
}

/// A message that a transaction in flight hides comes when that one ends, and word that came
/// before it could be read is not all that is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn word_wakes_it_and_never_replaces_looking() {
    let Some((database, client)) = place().await else { return };
    client.batch_execute(TRIGGER).await.unwrap();
    let mut slow = database.connect().await.unwrap();
    let steer = async {
        append(&client, 0..1).await;
        until_sent(&client, 1).await;
        // Past all that is lively, so that only word can be as quick as this.
        sleep(Duration::from_secs(4)).await;
        let mut delays = Vec::new();
        for n in 1..8 {
            append(&client, n..n + 1).await;
            let committed = Instant::now();
            while count(&client).await < n + 1 {
                sleep(Duration::from_millis(1)).await;
            }
            delays.push(committed.elapsed());
            sleep(Duration::from_millis(300)).await;
        }
        delays.sort_unstable();
        assert!(delays[3] < Duration::from_millis(60), "{delays:?}");
        let tx = slow.transaction().await.unwrap();
        tx.execute("SELECT pg_current_xact_id()", &[]).await.unwrap();
        append(&client, 8..9).await;
        sleep(Duration::from_millis(700)).await;
        assert_eq!(count(&client).await, 8, "hidden");
        // Its end notifies nobody.
        tx.rollback().await.unwrap();
        until_sent(&client, 9).await;
    };
    Processor::new(&database, "mailer").run_until(send, steer).await.unwrap();
}

/// A program gives it to its runtime, like any task.
#[tokio::test(flavor = "multi_thread")]
async fn a_processor_can_be_spawned() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..3).await;
    let stop = Arc::new(tokio::sync::Notify::new());
    let (stops, processor) = (Arc::clone(&stop), Processor::new(&database, "mailer"));
    let task = tokio::spawn(async move {
        processor.run_until(send_at_once, async move { stops.notified().await }).await
    });
    until_sent(&client, 3).await;
    stop.notify_one();
    task.await.unwrap().unwrap();
}

/// Invariants 3 and 5, in the transaction of another driver.
#[cfg(feature = "sqlx-postgres")]
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_sqlx_carries_the_checkpoint() {
    use sqlx::Connection;

    let Some((database, client)) = place().await else { return };
    let name: String = client.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    let server = processor_place::blocking(|| {
        piton_testkit::service::Postgres::shared().as_ref().unwrap().address()
    });
    let url = format!("postgres://postgres@{server}/{name}?sslmode=disable");
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let open = async |client: &Client| {
        let options = piton::Options::default();
        Claim::open(database.store(), client, "mailer", 1, &options).await.unwrap()
    };
    let mut claim = open(&client).await;
    let at = |n: i64| OutboxPosition::new(n as u64, n);
    for (n, commits) in [(10, false), (10, true), (20, true)] {
        let mut tx = connection.begin().await.unwrap();
        assert!(claim.save_in(&mut tx, &at(n), 1).await.unwrap().is_stored());
        sqlx::query("INSERT INTO sent VALUES ($1)").bind(n).execute(&mut *tx).await.unwrap();
        if commits {
            tx.commit().await.unwrap();
            claim.committed();
        } else {
            tx.rollback().await.unwrap();
        }
    }
    let mut tx = connection.begin().await.unwrap();
    let saved = claim.save_in(&mut tx, &at(15), 1).await.unwrap();
    assert!(matches!(saved, Saved::Older { .. }), "{saved:?}");
    tx.rollback().await.unwrap();
    assert_eq!(sent(&client).await, [10, 20]);
    assert_eq!(stands(&client, 1).await, Some((20, 20)));
    let elsewhere = "SELECT piton.store_processor_checkpoint('mailer', 30, 20, '30')";
    client.execute(elsewhere, &[]).await.unwrap();
    for (n, wanted) in [(40, "Further"), (30, "Ignored")] {
        let mut tx = connection.begin().await.unwrap();
        let saved = claim.save_in(&mut tx, &at(n), 1).await.unwrap();
        assert!(format!("{saved:?}").starts_with(wanted), "{saved:?}");
        tx.rollback().await.unwrap();
    }
    let epoch = claim.epoch();
    claim.close().await.unwrap();
    let mut heir = open(&client).await;
    assert_eq!((heir.position(), heir.epoch()), (Some(&at(30)), epoch + 1));
    let mut tx = connection.begin().await.unwrap();
    assert!(heir.save_in(&mut tx, &at(31), 1).await.unwrap().is_stored());
}
