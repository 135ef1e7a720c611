//! What goes wrong in other readers of an outbox, each by name, on a real server.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod processor_place;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use piton::{
    CursorError, EffectsError, Options, Saved, WhenHeld,
    postgres::{
        CheckpointOrder, Claim, Database, Message, OutboxPosition, Processor, ProcessorError, Start,
    },
};
use piton_testkit::service::{self, Postgres};
use tokio::time::sleep;
use tokio_postgres::{Client, Transaction};

use self::processor_place::{append, last, place, send, sent, stands, until_sent};

fn claimed(error: &ProcessorError) -> bool {
    matches!(error, ProcessorError::Claim(CursorError::Held { .. }))
}

/// By the same table as through SQL; a new position that is none cannot be written down here.
#[tokio::test(flavor = "multi_thread")]
async fn every_combination_of_stored_expected_and_new_follows_the_rule() {
    let Some((database, mut client)) = place().await else { return };
    let values = [None, Some(10), Some(20), Some(30)];
    let all = values.iter().flat_map(|s| values.map(|e| (*s, e)));
    for (n, ((stored, expected), new)) in
        all.flat_map(|pair| [10, 20, 30].map(|new| (pair, new))).enumerate()
    {
        let name = format!("p{n}");
        let put = async |client: &Client, new: i64, expected: Option<i64>| {
            let sql = "SELECT piton.store_processor_checkpoint($1, $2, $3, $4::text::xid8)";
            let row = client.query_one(sql, &[&name, &new, &expected, &new.to_string()]).await;
            assert_eq!(row.unwrap().get::<_, i32>(0), 1);
        };
        if let Some(expected) = expected {
            put(&client, expected, None).await;
        }
        let options = Options::default();
        let mut claim = Claim::open(database.store(), &client, &name, 1, &options).await.unwrap();
        match stored {
            _ if stored == expected => {}
            Some(stored) => put(&client, stored, expected).await,
            None => {
                let sql = "DELETE FROM piton.checkpoints WHERE pipeline = $1";
                client.execute(sql, &[&name]).await.unwrap();
            }
        }
        let mut tx = client.transaction().await.unwrap();
        let at = OutboxPosition::new(new as u64, new);
        let saved = claim.save_in(&mut tx, &at, 1).await.unwrap();
        tx.commit().await.unwrap();
        let what = format!("stored {stored:?}, expected {expected:?}, new {new}: {saved:?}");
        match saved {
            Saved::Stored { .. } => assert!(stored == expected && stored <= Some(new), "{what}"),
            Saved::Older { .. } => assert!(stored == expected && stored > Some(new), "{what}"),
            Saved::Ignored => assert!(stored != expected && stored == Some(new), "{what}"),
            Saved::Further { .. } => {
                assert!(stored > expected && stored != Some(new), "{what}");
            }
            Saved::Mismatch { .. } => {
                assert!(stored < expected && stored != Some(new), "{what}");
            }
            Saved::Fenced { .. } => panic!("{what}"),
        }
        claim.close().await.unwrap();
    }
}

/// Invariant 5: effects and checkpoint commit together.
#[tokio::test(flavor = "multi_thread")]
async fn a_mismatch_rolls_the_handler_back() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..3).await;
    let other = database.connect().await.unwrap();
    let processor = Processor::new(&database, "mailer").checkpoint(CheckpointOrder::Last);
    let error = processor
        .run(async |batch: &[Message], tx: &Transaction<'_>| {
            // While it works, somebody without a claim moves the checkpoint.
            let sql = "SELECT piton.store_processor_checkpoint('mailer', 1, NULL, '1'::xid8)";
            other.execute(sql, &[]).await?;
            send(batch, tx).await
        })
        .await
        .unwrap_err();
    assert!(matches!(error, ProcessorError::Moved { saved: Saved::Further { .. }, .. }), "{error}");
    assert_eq!(sent(&client).await, [] as [i64; 0]);
}

/// Invariant 3, in the order in which the handler is called before the save.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombies_save_after_a_takeover_is_fenced() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..3).await;
    let other = Arc::new(database.connect().await.unwrap());
    let processor = Processor::new(&database, "mailer")
        .lease(Duration::from_millis(200))
        .checkpoint(CheckpointOrder::Last);
    let error = processor
        .run(async |batch: &[Message], tx: &Transaction<'_>| {
            send(batch, tx).await?;
            // It sleeps past its lease, all of it: nothing is renewed, and an heir comes.
            let asks = Arc::clone(&other);
            let heir = tokio::spawn(async move {
                let sql = "SELECT piton.claim_processor('mailer', 'heir', '30 s')";
                loop {
                    let row = asks.query_one(sql, &[]).await.unwrap();
                    if let Some(epoch) = row.get::<_, Option<i64>>(0) {
                        return epoch;
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            });
            std::thread::sleep(Duration::from_millis(800));
            assert!(heir.is_finished());
            assert_eq!(heir.await.unwrap(), 2);
            Ok(())
        })
        .await
        .unwrap_err();
    assert!(matches!(error, ProcessorError::Fenced { epoch: 2, .. }), "{error}");
    assert_eq!(sent(&client).await, [] as [i64; 0]);
}

/// Invariant 3, in the order in which the checkpoint is saved first: who hangs in its transaction
/// holds the lock of the checkpoint's row, and every reader of the cluster back, until its lease
/// is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_a_hanging_owner_left_open_is_ended_for_its_heir() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..3).await;
    let lease = Duration::from_millis(500);
    let hangs = Processor::new(&database, "mailer").lease(lease);
    // On threads of its own, as another process has: it blocks them.
    let woken = tokio::task::spawn_blocking(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(hangs.run(send_and_hang))
    });
    while database.store().holders("mailer").await.unwrap().is_empty() {
        sleep(Duration::from_millis(10)).await;
    }
    sleep(lease).await;
    let heir =
        Processor::new(&another(&client).await, "mailer").lease(lease).when_held(WhenHeld::Wait);
    let began = std::time::Instant::now();
    let wakes = async {
        until_sent(&client, 3).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let error = woken.await.unwrap().unwrap_err();
        assert!(matches!(error, ProcessorError::Fenced { epoch: 2, .. }), "{error}");
    };
    heir.run_until(send, wakes).await.unwrap();
    assert_eq!(sent(&client).await, [0, 1, 2]);
}

async fn send_and_hang(batch: &[Message], tx: &Transaction<'_>) -> Result<(), EffectsError> {
    send(batch, tx).await?;
    std::thread::sleep(Duration::from_secs(6));
    Ok(())
}

/// A store of its own in the same database, as another process has.
async fn another(client: &Client) -> Database {
    let name: String = client.query_one("SELECT current_database()", &[]).await.unwrap().get(0);
    let url = service::needed(Postgres::shared()).unwrap().url();
    Database::open(&format!("{}/{name}", url.rsplit_once('/').unwrap().0)).unwrap()
}

/// The trap: the place in memory moved before COMMIT, so a failed one skipped the batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_commit_does_not_advance_the_place_in_memory() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..5).await;
    let calls = AtomicU32::new(0);
    let handler = async |batch: &[Message], tx: &Transaction<'_>| {
        send(batch, tx).await?;
        if calls.fetch_add(1, Ordering::Relaxed) == 0 {
            // Found at COMMIT.
            tx.execute("INSERT INTO sent VALUES (0)", &[]).await?;
        }
        Ok(())
    };
    let processor = Processor::new(&database, "mailer");
    processor.run_until(handler, until_sent(&client, 5)).await.unwrap();
    assert_eq!(sent(&client).await, [0, 1, 2, 3, 4]);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_not_skip_a_transaction_in_flight() {
    let Some((database, client)) = place().await else { return };
    let mut slow = database.connect().await.unwrap();
    let tx = slow.transaction().await.unwrap();
    tx.execute("INSERT INTO outbox (message_type, data) VALUES ('n', '7')", &[]).await.unwrap();
    append(&client, 0..1).await;
    let watch = database.connect().await.unwrap();
    let begun = async {
        while stands(&watch, 1).await.is_none() {
            sleep(Duration::from_millis(10)).await;
        }
        tx.commit().await.unwrap();
        until_sent(&watch, 2).await;
    };
    let processor = Processor::new(&database, "mailer").start(Start::End);
    processor.run_until(send, begun).await.unwrap();
    // What came after the slow one began was not at the end either.
    assert_eq!(sent(&client).await, [0, 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handlers_error_is_tried_again_and_then_surfaced() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..3).await;
    let calls = AtomicU32::new(0);
    let handler = async |batch: &[Message], tx: &Transaction<'_>| {
        send(batch, tx).await?;
        calls.fetch_add(1, Ordering::Relaxed);
        Err("the printer is out of paper".into())
    };
    let error = Processor::new(&database, "mailer").attempts(3).run(handler).await.unwrap_err();
    assert!(error.to_string().contains("out of paper"), "{error}");
    assert!(matches!(error, ProcessorError::Handler { attempts: 3, .. }));
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    assert_eq!(sent(&client).await, [] as [i64; 0]);
    assert_eq!(stands(&client, 1).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_owner_keeps_its_lease_and_so_does_a_slow_one() {
    let Some((database, client)) = place().await else { return };
    let lease = Duration::from_millis(600);
    let busy = Arc::new(AtomicU32::new(0));
    let (first, seen) = (Processor::new(&database, "mailer").lease(lease), Arc::clone(&busy));
    let claims = "SELECT count(*) FROM piton.claims WHERE pipeline = 'mailer'";
    let rivals = async {
        while client.query_one(claims, &[]).await.map_or(0, |row| row.get::<_, i64>(0)) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        let idle = sleep(lease * 3);
        compete(&database, lease, idle).await;
        append(&client, 0..1).await;
        while busy.load(Ordering::Relaxed) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
        compete(&database, lease, sleep(lease * 2)).await;
        until_sent(&client, 1).await;
    };
    let handler = async |batch: &[Message], tx: &Transaction<'_>| {
        seen.fetch_add(1, Ordering::Relaxed);
        sleep(lease * 3).await;
        send(batch, tx).await
    };
    Box::pin(first.run_until(handler, rivals)).await.unwrap();
    assert_eq!(sent(&client).await, [0]);
}

/// Asks for the claim, as a standby would that replaces silent owners, and never gets it.
async fn compete(database: &Database, lease: Duration, time: impl Future<Output = ()>) {
    let rival = Processor::new(database, "mailer").lease(lease).when_held(WhenHeld::ReplaceSilent);
    tokio::select! {
        ended = rival.run(send) => assert!(claimed(&ended.unwrap_err())),
        () = time => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_fails_or_stands_by_and_takes_over() {
    let Some((database, client)) = place().await else { return };
    let another = another(&client).await;
    append(&client, 0..2).await;
    let fails = Processor::new(&another, "mailer");
    let standby = Processor::new(&another, "mailer").when_held(WhenHeld::Wait);
    let (watch, end) = (database.connect().await.unwrap(), database.connect().await.unwrap());
    let first = Processor::new(&database, "mailer").run_until(send, async {
        until_sent(&watch, 2).await;
        assert!(claimed(&Box::pin(fails.run(send)).await.unwrap_err()));
    });
    let second = async {
        until_sent(&end, 2).await;
        Box::pin(standby.run_until(send, until_sent(&end, 4))).await.unwrap();
    };
    let third = async {
        Box::pin(first).await.unwrap();
        append(&client, 2..4).await;
    };
    tokio::join!(second, third);
    assert_eq!(sent(&client).await, [0, 1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_shorter_than_the_batch_is_written() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..25).await;
    let processor = Processor::new(&database, "mailer").batch(10);
    processor.run_until(send, until_sent(&client, 25)).await.unwrap();
    assert_eq!(sent(&client).await, (0..25).collect::<Vec<_>>());
    assert_eq!(stands(&client, 1).await, Some(last(&client).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_does_not_see_the_old_ones_place() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..3).await;
    let processor = Processor::new(&database, "mailer");
    processor.run_until(send, until_sent(&client, 3)).await.unwrap();
    client.execute("TRUNCATE sent", &[]).await.unwrap();
    let processor = Processor::new(&database, "mailer").version(2);
    processor.run_until(send, until_sent(&client, 3)).await.unwrap();
    assert_eq!(stands(&client, 1).await, stands(&client, 2).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_reset_transaction_ids_is_refused() {
    let Some((database, client)) = place().await else { return };
    let sql = "INSERT INTO outbox (transaction_id, message_type, data)
        VALUES ('4000000000'::xid8, 'n', '1')";
    client.execute(sql, &[]).await.unwrap();
    let error = Processor::new(&database, "mailer").run(send).await.unwrap_err();
    assert!(matches!(error, ProcessorError::Gap { .. }), "{error}");
    client.execute("TRUNCATE outbox", &[]).await.unwrap();
    let sql = "SELECT piton.store_processor_checkpoint('mailer', 1, NULL, '4000000000')";
    client.execute(sql, &[]).await.unwrap();
    let error = Processor::new(&database, "mailer").run(send).await.unwrap_err();
    assert!(matches!(error, ProcessorError::Gap { .. }), "behind the checkpoint: {error}");
    assert_eq!(sent(&client).await, [] as [i64; 0]);
}

/// Invariant 4: what pipelines with `delete_passed` have deleted is no silent loss for a processor,
/// whether it starts then or runs.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_were_deleted_before_they_were_handled_are_a_gap() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..50).await;
    // As such a pipeline does it: all below a message, and the mark at it.
    let deleted = async |n: i64| {
        let sql = format!(
            "BEGIN;
            CREATE TABLE IF NOT EXISTS piton_outbox_readers (outbox text, reader text,
                transaction_id xid8, position bigint, PRIMARY KEY (outbox, reader));
            INSERT INTO piton_outbox_readers SELECT 'public.outbox', '', transaction_id, position
                FROM outbox WHERE data = '{n}' ON CONFLICT (outbox, reader) DO UPDATE SET
                transaction_id = excluded.transaction_id, position = excluded.position;
            DELETE FROM outbox WHERE data::text::bigint < {n}; COMMIT"
        );
        client.batch_execute(&sql).await.unwrap();
    };
    let processor = || Processor::new(&database, "mailer").batch(1);
    let is_gap = |ended: Result<(), ProcessorError>| {
        let error = ended.unwrap_err();
        assert!(matches!(error, ProcessorError::Gap { .. }), "{error}");
        assert!(error.to_string().contains("were deleted"), "{error}");
    };
    // What was deleted before it began is not missed.
    deleted(1).await;
    let handler = async |batch: &[Message], tx: &Transaction<'_>| {
        send(batch, tx).await?;
        if batch[0].data == "3" {
            deleted(40).await;
        }
        Ok(())
    };
    let ended = tokio::time::timeout(Duration::from_mins(1), processor().run(handler)).await;
    is_gap(ended.unwrap());
    let handled = sent(&client).await;
    // Those that were read ahead, and none of those that were gone.
    assert!(
        handled.len() < 30 && handled.iter().copied().eq(1..=handled.len() as i64),
        "{handled:?}"
    );
    let ended = tokio::time::timeout(Duration::from_mins(1), processor().run(send)).await;
    is_gap(ended.unwrap());
    assert_eq!(sent(&client).await, handled);
}

/// Its ids may have passed the checkpoint's since, and messages of this server be below it.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_another_server_is_refused_unless_it_is_accepted() {
    let Some((database, client)) = place().await else { return };
    append(&client, 0..2).await;
    let processor = || Processor::new(&database, "mailer");
    processor().run_until(send, until_sent(&client, 2)).await.unwrap();
    let sql = "SELECT position FROM piton.checkpoints";
    let stored: String = client.query_one(sql, &[]).await.unwrap().get(0);
    let system = "SELECT system_identifier::text FROM pg_control_system()";
    let system: String = client.query_one(system, &[]).await.unwrap().get(0);
    let fingerprint = format!(r#""fingerprint":{{"system":"{system}","timeline":1,"message":""#);
    assert!(stored.contains(&fingerprint), "{stored}");

    // What the store would hold after a dump of another server was restored.
    let elsewhere = async |fingerprint: &str| {
        let sql = "SELECT (piton.move_processor('mailer', 'outbox', 1, t, p, t, p, true, NULL,
            true, 0, $1)).outcome FROM (SELECT last_processed_transaction_id AS t,
            last_processed_position AS p FROM piton.processor_checkpoints) AS at";
        let row = client.query_one(sql, &[&fingerprint]).await.unwrap();
        assert_eq!(row.get::<_, i32>(0), 1);
    };
    elsewhere(r#"{"system":"7","timeline":1}"#).await;
    append(&client, 2..4).await;
    let error = processor().run(send).await.unwrap_err();
    assert!(matches!(error, ProcessorError::Gap { .. }), "{error}");
    assert!(error.to_string().contains("accept_server"), "{error}");
    assert_eq!(sent(&client).await, [0, 1]);
    processor().accept_server().run_until(send, until_sent(&client, 4)).await.unwrap();

    // It was accepted for good. Another timeline is no other server; another message there is.
    elsewhere(&format!(r#"{{"system":"{system}","timeline":7}}"#)).await;
    append(&client, 4..5).await;
    processor().run_until(send, until_sent(&client, 5)).await.unwrap();
    elsewhere(&format!(r#"{{"system":"{system}","timeline":1,"message":"0"}}"#)).await;
    let error = processor().run(send).await.unwrap_err();
    assert!(error.to_string().contains("another message"), "{error}");
}
