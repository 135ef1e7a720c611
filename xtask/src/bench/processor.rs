//! A processor of the library over an outbox: drained with a handler that does nothing and with one
//! that writes a row for each message, against loops inside the server that do the same; how late a
//! lone message is handled; what waiting costs.

use std::{
    cell::Cell,
    sync::{Arc, mpsc::channel},
    thread,
    time::{Duration, Instant},
};

use piton::{
    EffectsError,
    postgres::{Database, Message, Processor, Start},
};
use piton_connectors::{
    postgres::connect::describe,
    postgres_outbox::{OutboxSettings, ddl},
};
use piton_testkit::service::Postgres;
use postgres::{Client, NoTls};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};
use tokio_postgres::Transaction;

use super::{
    Promise, judge,
    measure::{alternate, median},
    outbox::cpu_of,
    table,
};
use crate::command::Failure;

const MESSAGES: usize = 500_000;
const PAIRS: usize = 5;
/// The least share of the rate of the loop in the server.
const SHARE: f64 = 0.6;

/// Ten messages a second.
const TRICKLE: Duration = Duration::from_millis(100);
const TRICKLED: u32 = 150;
const POLLED_P95: Duration = Duration::from_millis(30);
const WOKEN_P50: Duration = Duration::from_millis(5);

const IDLE: Duration = Duration::from_secs(10);
/// Of one core.
const IDLE_SHARE: f64 = 0.01;

/// Loops inside the server: the place is noted with each 1,000.
const LOOPS: [(&str, &str); 2] =
    [("drain", ""), ("copy_out", "INSERT INTO sent VALUES (m.message_id, m.data);")];

pub(super) fn run() -> Result<Promise, Failure> {
    let server = Postgres::options().line("max_wal_size = 8GB").start();
    let server = server.map_err(|error| found(&error))?;
    let bench = Bench::new(server.database().map_err(|error| found(&error))?)?;
    let drained = bench.drained("drained", "drain", no_op)?;
    let written = bench.drained("a row for each message", "copy_out", write_rows)?;
    let kept = drained.and(written).and(bench.trickle()?);
    Ok(kept.and(bench.idle()?))
}

fn found(error: &dyn std::fmt::Display) -> Failure {
    Failure::Found(error.to_string())
}

fn refused(error: &postgres::Error) -> Failure {
    Failure::Found(describe(error))
}

async fn no_op(_: &[Message], _: &Transaction<'_>) -> Result<(), EffectsError> {
    Ok(())
}

async fn write_rows(batch: &[Message], tx: &Transaction<'_>) -> Result<(), EffectsError> {
    let ids: Vec<&str> = batch.iter().map(|message| &*message.id).collect();
    let data: Vec<&str> = batch.iter().map(|message| &*message.data).collect();
    let sql = "INSERT INTO sent SELECT i, d::jsonb FROM unnest($1::text[], $2::text[]) AS u (i, d)";
    tx.execute(sql, &[&ids, &data]).await?;
    Ok(())
}

struct Bench {
    url: String,
    database: Database,
    runtime: Runtime,
    /// Each run is a processor of its own.
    runs: Cell<u32>,
}

impl Bench {
    /// Messages of about 100 bytes, 500 in each transaction.
    fn new(url: String) -> Result<Self, Failure> {
        let database = Database::open(&url).map_err(|error| found(&error))?;
        // Of one thread, as the example has it: nothing is handed from one to another.
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| found(&error))?;
        let bench = Self { url, database, runtime, runs: Cell::new(0) };
        bench.sql(&ddl(&OutboxSettings::at(&bench.url), false))?;
        bench.sql(
            "CREATE TABLE place (transaction_id xid8, position bigint);
             INSERT INTO place VALUES ('0', 0);
             CREATE TABLE sent (message_id text, data jsonb)",
        )?;
        for (name, per_message) in LOOPS {
            bench.sql(&procedure(name, per_message))?;
        }
        bench.sql(&format!(
            "DO $$ BEGIN FOR i IN 1..{MESSAGES} / 500 LOOP
               INSERT INTO outbox (message_id, message_type, data)
               SELECT md5((i * 500 + n)::text), 'OrderPlaced',
                 jsonb_build_object('order', i * 500 + n, 'customer', n, 'total', 12.50)
               FROM generate_series(1, 500) n;
               COMMIT;
             END LOOP; END $$"
        ))?;
        bench.sql("VACUUM ANALYZE outbox")?;
        Ok(bench)
    }

    fn client(&self) -> Result<Client, Failure> {
        Client::connect(&self.url, NoTls).map_err(|error| refused(&error))
    }

    fn sql(&self, statements: &str) -> Result<(), Failure> {
        self.client()?.batch_execute(statements).map_err(|error| refused(&error))
    }

    fn empty(&self) -> Result<(), Failure> {
        self.sql("TRUNCATE sent")?;
        self.sql("CHECKPOINT")
    }

    fn processor(&self) -> Processor {
        self.runs.set(self.runs.get() + 1);
        Processor::new(&self.database, &format!("bench-{}", self.runs.get()))
    }

    /// All messages through a processor.
    fn process<H>(&self, mut handler: H) -> Result<Duration, Failure>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        self.empty()?;
        let (done, mut handled) = (Notify::new(), 0);
        let began = Instant::now();
        let counting = async |batch: &[Message], tx: &Transaction<'_>| {
            handler(batch, tx).await?;
            handled += batch.len();
            if handled >= MESSAGES {
                done.notify_one();
            }
            Ok(())
        };
        let running = self.processor().run_until(counting, done.notified());
        self.runtime.block_on(running).map_err(|error| found(&error))?;
        Ok(began.elapsed())
    }

    fn drained<H>(&self, what: &str, procedure: &str, mut handler: H) -> Result<Promise, Failure>
    where
        H: AsyncFnMut(&[Message], &Transaction<'_>) -> Result<(), EffectsError>,
    {
        let inside = || {
            self.empty()?;
            let mut client = self.client()?;
            let began = Instant::now();
            let call = format!("CALL {procedure}()");
            client.batch_execute(&call).map_err(|error| refused(&error))?;
            Ok(began.elapsed())
        };
        let pairs = alternate(PAIRS, inside, || self.process(&mut handler))?;
        let rate = |wall: Duration| MESSAGES as f64 / wall.as_secs_f64();
        let inside = median(pairs.iter().map(|(inside, _)| rate(*inside)));
        let ours = median(pairs.iter().map(|(_, ours)| rate(*ours)));
        let share = median(pairs.iter().map(|(inside, ours)| inside.div_duration_f64(*ours)));
        table::print(
            &[what, "messages/s"],
            &[
                vec!["plpgsql loop".to_owned(), format!("{inside:.0}")],
                vec!["Processor".to_owned(), format!("{ours:.0}")],
            ],
        );
        let promise = format!("at least {SHARE} of the loop in the server");
        Ok(judge(&promise, &format!("{share:.2}"), share >= SHARE))
    }

    /// From commit to the handler, for messages that come alone.
    fn delays(&self) -> Result<Vec<Duration>, Failure> {
        let mut client = self.client()?;
        let (send, committed) = channel();
        let begins = Arc::new(Notify::new());
        let appends = thread::spawn(move || {
            // The processor has begun by then.
            thread::sleep(Duration::from_secs(1));
            for n in 0..TRICKLED {
                // Not in step with anything.
                thread::sleep(TRICKLE.mul_f64(0.5 + f64::from(n * 37 % 100) / 100.0));
                let insert = "INSERT INTO outbox (message_id, message_type, data)
                    VALUES ($1, 'Trickled', '{}')";
                client.execute(insert, &[&n.to_string()]).map_err(|error| refused(&error))?;
                let _ = send.send(Instant::now());
            }
            Ok(())
        });
        let mut seen = Vec::new();
        let handler = async |batch: &[Message], _: &Transaction<'_>| {
            let now = Instant::now();
            seen.extend(batch.iter().map(|_| now));
            if seen.len() >= TRICKLED as usize {
                begins.notify_one();
            }
            Ok(())
        };
        let running = self.processor().start(Start::End).run_until(handler, begins.notified());
        self.runtime.block_on(running).map_err(|error| found(&error))?;
        appends.join().map_err(|_| Failure::Found("appending panicked".to_owned()))??;
        let mut delays: Vec<Duration> = std::iter::zip(seen, committed)
            .map(|(seen, committed)| seen.saturating_duration_since(committed))
            .collect();
        delays.sort();
        Ok(delays)
    }

    fn trickle(&self) -> Result<Promise, Failure> {
        self.sql("TRUNCATE outbox")?;
        let polled = self.delays()?;
        self.sql(&ddl(&OutboxSettings::at(&self.url), true))?;
        let woken = self.delays()?;
        let at = |delays: &[Duration], share: f64| delays[(delays.len() as f64 * share) as usize];
        let ms = |delay: Duration| format!("{:.1}", delay.as_secs_f64() * 1e3);
        let row = |name: &str, delays: &[Duration]| {
            vec![name.to_owned(), ms(at(delays, 0.5)), ms(at(delays, 0.95))]
        };
        table::print(
            &["ten messages a second, commit to handler", "p50 ms", "p95 ms"],
            &[row("polling", &polled), row("woken by NOTIFY", &woken)],
        );
        let (p95, p50) = (at(&polled, 0.95), at(&woken, 0.5));
        let promise = "p95 at most 30 ms without NOTIFY, p50 at most 5 ms with it";
        let found = format!("{} and {} ms", ms(p95), ms(p50));
        Ok(judge(promise, &found, p95 <= POLLED_P95 && p50 <= WOKEN_P50))
    }

    /// A processor with nothing to do, once it has been so for a while.
    fn idle(&self) -> Result<Promise, Failure> {
        self.sql("DROP TRIGGER piton_outbox_notify ON outbox")?;
        let over = async {
            tokio::time::sleep(Duration::from_secs(15)).await;
            let before = cpu_of("self");
            tokio::time::sleep(IDLE).await;
            cpu_of("self").saturating_sub(before).div_duration_f64(IDLE)
        };
        let share = Cell::new(0.0);
        let stop = async { share.set(over.await) };
        let running = self.processor().start(Start::End).run_until(no_op, stop);
        self.runtime.block_on(running).map_err(|error| found(&error))?;
        let percent = format!("{:.2}%", share.get() * 100.0);
        Ok(judge("idle: less than 1% of a core", &percent, share.get() < IDLE_SHARE))
    }
}

/// A loop that reads like the library, does something with each message, and notes its place in
/// the same transaction.
fn procedure(name: &str, per_message: &str) -> String {
    format!(
        "CREATE PROCEDURE {name}() LANGUAGE plpgsql AS $$
        DECLARE t xid8 := '0'; p bigint := 0; n int; m record;
        BEGIN
          LOOP
            n := 0;
            FOR m IN SELECT transaction_id, position, message_id, message_type, data FROM outbox
              WHERE (transaction_id, position) > (t, p)
              AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
              ORDER BY transaction_id, position LIMIT 1000
            LOOP
              t := m.transaction_id; p := m.position; n := n + 1; {per_message}
            END LOOP;
            EXIT WHEN n = 0;
            UPDATE place SET transaction_id = t, position = p;
            COMMIT;
          END LOOP;
        END $$"
    )
}
