//! A processor whose process is killed, whose server goes away, and whose connections are cut:
//! the target is the outbox, each message once, in order (invariants 1, 3, 5 and 7).
//!
//! The child is this very test program, started again. Its target is judged by plain SQL.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod processor_place;
mod support;

use std::{
    env,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use piton::{
    EffectsError, WhenHeld,
    postgres::{Database, Message, Processor},
};
use piton_testkit::{
    Dice,
    service::{self, Cut, Postgres},
};
use tokio::{runtime::Runtime, time::sleep};
use tokio_postgres::{Client, Transaction};

use self::{
    processor_place::{
        all_once_in_order, append_many, blocking, count, make, numbers, plain, send, send_at_once,
        until_sent,
    },
    support::{Place, is_child},
};

const KILLS: u32 = 10;

/// The child: handles messages until it is killed, or told that they are all there are.
#[test]
fn child_processes() {
    if !is_child("child_processes") {
        return;
    }
    Runtime::new().unwrap().block_on(async {
        let database = Database::open(&env::var("DATABASE_URL").unwrap()).unwrap();
        let client = database.connect().await.unwrap();
        let over = async {
            let left = "SELECT 1::bigint FROM over
                WHERE (SELECT count(*) FROM sent) = (SELECT count(*) FROM outbox)";
            while numbers(&client, left).await.is_empty() {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let processor = Processor::new(&database, "mailer").batch(40).when_held(WhenHeld::Wait);
        let handler = async |batch: &[Message], tx: &Transaction<'_>| {
            // One statement for each message, so that there is a middle to be killed in.
            send(batch, tx).await
        };
        processor.run_until(handler, over).await.unwrap();
    });
}

/// Appends in transactions that overlap, wait, and are sometimes rolled back, until told to stop.
async fn write(url: String, writer: i64, stop: Arc<AtomicBool>) {
    let mut client = plain(&url).await;
    let mut dice = Dice::new();
    let mut n = writer * 1_000_000;
    while !stop.load(Ordering::Relaxed) {
        let tx = client.transaction().await.unwrap();
        for _ in 0..dice.between(1, 6) {
            n += 1;
            let sql = "INSERT INTO outbox (message_type, data) VALUES ('n', to_jsonb($1::bigint))";
            tx.execute(sql, &[&n]).await.unwrap();
            sleep(Duration::from_millis(dice.between(0, 12))).await;
        }
        if dice.between(1, 5) == 1 {
            tx.rollback().await.unwrap();
        } else {
            tx.commit().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_writers_and_ten_kills_skip_and_repeat_nothing() {
    let url =
        blocking(|| service::needed(Postgres::shared()).map(|server| server.database().unwrap()));
    let Some(url) = url else { return };
    let (_, client) = make(&url).await;
    client.batch_execute("CREATE TABLE over (all_there boolean)").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> =
        (1..=8).map(|n| tokio::spawn(write(url.clone(), n, Arc::clone(&stop)))).collect();
    let place = Place::new();
    let child = place.child("child_processes").with("DATABASE_URL", &url);
    let mut dice = Dice::new();
    for _ in 0..KILLS {
        let running = child.program.start(&child.args()).unwrap();
        let wanted = count(&client).await + dice.between(1, 150) as i64;
        until_sent(&client, wanted).await;
        running.kill().unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    client.batch_execute("INSERT INTO over DEFAULT VALUES").await.unwrap();
    blocking(|| child.program.run_to(0, &child.args()).unwrap());
    all_once_in_order(&client).await;
    let crashed = "SELECT count(*) FROM piton.runs WHERE ended_as = 'crashed'";
    assert_eq!(numbers(&client, crashed).await, [i64::from(KILLS)], "each kill hit a run");
}

/// Runs a processor with a middle in each batch, while something is done to it.
async fn run_while(database: &Database, within: &AtomicU32, other: impl Future<Output = ()>) {
    let handler = async |batch: &[Message], tx: &Transaction<'_>| -> Result<(), EffectsError> {
        let (first, second) = batch.split_at(batch.len() / 2);
        send_at_once(first, tx).await?;
        within.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(3)).await;
        send_at_once(second, tx).await
    };
    let processor = Processor::new(database, "mailer").batch(20);
    processor.run_until(handler, other).await.unwrap();
}

/// Until all is sent, asked on a connection that may be lost meanwhile.
async fn done(watch: &Client, wanted: i64) {
    loop {
        let sent = watch.query_one("SELECT count(*) FROM sent", &[]).await;
        if sent.is_ok_and(|row| row.get::<_, i64>(0) >= wanted) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until the handler is called again.
async fn next_call(within: &AtomicU32) {
    let before = within.load(Ordering::Relaxed);
    while within.load(Ordering::Relaxed) == before {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_stopped_and_started_in_the_middle_of_a_batch() {
    let server = blocking(|| service::needed(Postgres::options().line("fsync = off").start()));
    let Some(mut server) = server else { return };
    let url = blocking(|| server.database().unwrap());
    let (database, client) = make(&url).await;
    append_many(&client, 0..4000).await;
    let within = AtomicU32::new(0);
    let restarts = async {
        for n in 0..10 {
            next_call(&within).await;
            tokio::task::block_in_place(|| {
                if n % 2 == 0 {
                    server.stop().unwrap();
                } else {
                    server.kill().unwrap();
                }
                server.start_again().unwrap();
            });
        }
        let watch = plain(&url).await;
        assert!(count(&watch).await < 4000, "it was still at work");
        done(&watch, 4000).await;
    };
    run_while(&database, &within, restarts).await;
    all_once_in_order(&plain(&url).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_at_any_byte() {
    let server = blocking(|| service::needed(Postgres::shared()));
    let Some(server) = server else { return };
    let url = blocking(|| server.database().unwrap());
    let (_, client) = make(&url).await;
    append_many(&client, 0..3000).await;
    let cut = Cut::before(server.address()).unwrap();
    let database = Database::open(&cut.url(&url)).unwrap();
    let within = AtomicU32::new(0);
    let mut dice = Dice::new();
    let cuts = async {
        for n in 0..30 {
            next_call(&within).await;
            let (bytes, before) = (dice.between(1, 6000), cut.cuts());
            if n % 2 == 0 {
                cut.after_sent(bytes);
            } else {
                cut.after_answered(bytes);
            }
            while cut.cuts() == before && count(&client).await < 3000 {
                sleep(Duration::from_millis(1)).await;
            }
        }
        assert!(cut.cuts() >= 20, "it was still at work: {} cuts", cut.cuts());
        done(&client, 3000).await;
    };
    run_while(&database, &within, cuts).await;
    all_once_in_order(&client).await;
}

/// Invariant 7: it was done, and nobody said so.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_fenced_and_read() {
    let server = blocking(|| service::needed(Postgres::shared()));
    let Some(server) = server else { return };
    let url = blocking(|| server.database().unwrap());
    let (_, client) = make(&url).await;
    append_many(&client, 0..400).await;
    let cut = Cut::before(server.address()).unwrap();
    let database = Database::open(&cut.url(&url)).unwrap();
    let within = AtomicU32::new(0);
    let cuts = async {
        for _ in 0..5 {
            next_call(&within).await;
            let before = cut.cuts();
            cut.lose_answer("COMMIT", "COMMIT");
            while cut.cuts() == before {
                sleep(Duration::from_millis(1)).await;
            }
        }
        done(&client, 400).await;
    };
    run_while(&database, &within, cuts).await;
    all_once_in_order(&client).await;
}
