//! An outbox in PostgreSQL: drained, against a loop inside the server that does the same; and how
//! late a lone message is seen, and what waiting costs.

use std::{
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel, sync_channel},
    thread,
    time::{Duration, Instant},
};

use piton_connectors::{
    postgres::connect::describe,
    postgres_outbox::{OutboxSettings, OutboxSource, ddl},
    source::{Read, Reader, Source, SourceError, Start},
};
use piton_testkit::service::{Postgres, ServiceError};
use postgres::{Client, NoTls};

use super::{
    Promise, data, judge,
    measure::{Measured, alternate, median},
    table,
};
use crate::command::{Failure, cargo, piton_binary, run as run_to_end};

const MESSAGES: usize = 500_000;
const AT_ONCE: usize = 1000;
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

/// What the reader does, inside the server: no handler, and the place noted with each 1,000.
const DRAIN: &str = "CREATE OR REPLACE PROCEDURE drain() LANGUAGE plpgsql AS $$
DECLARE t xid8 := '0'; p bigint := 0; n int; m record;
BEGIN
  LOOP
    n := 0;
    FOR m IN SELECT transaction_id, position, message_id, message_type, data, scheduled FROM outbox
      WHERE (transaction_id, position) > (t, p)
      AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
      ORDER BY transaction_id, position LIMIT 1000
    LOOP
      t := m.transaction_id; p := m.position; n := n + 1;
    END LOOP;
    EXIT WHEN n = 0;
    UPDATE place SET transaction_id = t, position = p;
    COMMIT;
  END LOOP;
END $$";

pub(super) fn run() -> Result<Promise, Failure> {
    let server = Postgres::start().map_err(|error: ServiceError| found(&error))?;
    let outbox = Outbox { url: server.database().map_err(|error| found(&error))? };
    outbox.make()?;
    let kept = [outbox.drain()?, outbox.trickle()?, outbox.idle()?];
    let missed = kept.contains(&Promise::Missed);
    Ok(if missed { Promise::Missed } else { Promise::Kept })
}

fn found(error: &dyn std::fmt::Display) -> Failure {
    Failure::Found(error.to_string())
}

/// By itself the client's error says "db error".
fn refused(error: &postgres::Error) -> Failure {
    Failure::Found(describe(error))
}

struct Outbox {
    url: String,
}

impl Outbox {
    fn settings(&self) -> OutboxSettings {
        OutboxSettings::at(&self.url)
    }

    fn client(&self) -> Result<Client, Failure> {
        Client::connect(&self.url, NoTls).map_err(|error| refused(&error))
    }

    fn sql(&self, statements: &str) -> Result<(), Failure> {
        self.client()?.batch_execute(statements).map_err(|error| refused(&error))
    }

    /// Messages of about 100 bytes, 500 in each transaction.
    fn make(&self) -> Result<(), Failure> {
        self.sql(&ddl(&self.settings(), false))?;
        self.sql("CREATE TABLE place (transaction_id xid8, position bigint)")?;
        self.sql("INSERT INTO place VALUES ('0', 0)")?;
        self.sql(&format!(
            "DO $$ BEGIN FOR i IN 1..{MESSAGES} / 500 LOOP
               INSERT INTO outbox (message_id, message_type, data)
               SELECT md5((i * 500 + n)::text), 'OrderPlaced',
                 jsonb_build_object('order', i * 500 + n, 'customer', n, 'total', 12.50)
               FROM generate_series(1, 500) n;
               COMMIT;
             END LOOP; END $$"
        ))?;
        self.sql("VACUUM ANALYZE outbox")?;
        self.sql("CHECKPOINT")?;
        self.sql(DRAIN)
    }

    fn reader(&self) -> Result<Box<dyn Reader>, Failure> {
        let source = OutboxSource::new(&self.settings(), "bench", 16 << 20, false);
        let start = Start { partition: "outbox".to_owned(), position: None };
        let reader = source.and_then(|source| source.reader(&[start]));
        reader.map_err(|error: SourceError| found(&error))
    }

    /// The same, read by the connector: one thread reads while another notes the place.
    fn read_all(&self) -> Result<Measured, Failure> {
        let mut reader = self.reader()?;
        let mut client = self.client()?;
        let began = Instant::now();
        let cpu = cpu_of("self");
        let (send, places) = sync_channel::<(String, i64)>(4);
        let noted = thread::spawn(move || note_all(&mut client, &places));
        let mut rows = 0;
        while rows < MESSAGES {
            let Read::Batch(batch) = reader.read(AT_ONCE).map_err(|error| found(&error))? else {
                continue;
            };
            rows += batch.rows();
            let end: serde_json::Value =
                serde_json::from_str(&batch.end.json).map_err(|error| found(&error))?;
            let transaction = end["transaction_id"].as_str().unwrap_or_default().to_owned();
            let place = (transaction, end["position"].as_i64().unwrap_or_default());
            send.send(place).map_err(|error| found(&error))?;
        }
        drop(send);
        let noted = noted.join().map_err(|_| Failure::Found("noting panicked".to_owned()))?;
        noted.map_err(|error| refused(&error))?;
        let wall = began.elapsed();
        Ok(Measured { wall, cpu: cpu_of("self").saturating_sub(cpu), peak: None })
    }

    fn drain(&self) -> Result<Promise, Failure> {
        let inside = || {
            let mut client = self.client()?;
            let began = Instant::now();
            client.batch_execute("CALL drain()").map_err(|error| refused(&error))?;
            Ok(Measured { wall: began.elapsed(), cpu: Duration::ZERO, peak: None })
        };
        let pairs = alternate(PAIRS, inside, || self.read_all())?;
        let rate = |wall: Duration| MESSAGES as f64 / wall.as_secs_f64();
        let inside = median(pairs.iter().map(|(inside, _)| rate(inside.wall)));
        let ours = median(pairs.iter().map(|(_, ours)| rate(ours.wall)));
        let cpu = pairs.iter().map(|(_, ours)| ours.cpu.as_secs_f64() * 1e6 / MESSAGES as f64);
        let share =
            median(pairs.iter().map(|(inside, ours)| inside.wall.div_duration_f64(ours.wall)));
        table::print(
            &["drained, 1,000 a transaction", "messages/s", "CPU of the client µs/message"],
            &[
                vec!["plpgsql loop".to_owned(), format!("{inside:.0}"), "-".to_owned()],
                vec!["piton".to_owned(), format!("{ours:.0}"), format!("{:.2}", median(cpu))],
            ],
        );
        let promise = format!("at least {SHARE} of the loop in the server");
        Ok(judge(&promise, &format!("{share:.2}"), share >= SHARE))
    }

    /// From commit to the reader, for messages that come alone.
    fn delays(&self) -> Result<Vec<Duration>, Failure> {
        let mut reader = self.reader_at_end()?;
        let mut client = self.client()?;
        let (send, committed) = channel();
        let appends = thread::spawn(move || {
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
        while seen.len() < TRICKLED as usize {
            if let Read::Batch(batch) = reader.read(AT_ONCE).map_err(|error| found(&error))? {
                let now = Instant::now();
                seen.extend((0..batch.rows()).map(|_| now));
            }
        }
        appends.join().map_err(|_| Failure::Found("appending panicked".to_owned()))??;
        let mut delays: Vec<Duration> = seen
            .into_iter()
            .zip(committed.iter())
            .map(|(seen, committed)| seen.saturating_duration_since(committed))
            .collect();
        delays.sort();
        Ok(delays)
    }

    /// A reader of what is to come, past all that is there.
    fn reader_at_end(&self) -> Result<Box<dyn Reader>, Failure> {
        let mut reader = self.reader()?;
        let mut idle = 0;
        while idle < 3 {
            match reader.read(AT_ONCE).map_err(|error| found(&error))? {
                Read::Idle => idle += 1,
                _ => idle = 0,
            }
        }
        Ok(reader)
    }

    fn trickle(&self) -> Result<Promise, Failure> {
        self.sql("TRUNCATE outbox")?;
        let polled = self.delays()?;
        self.sql(&ddl(&self.settings(), true))?;
        let woken = self.delays()?;
        let at = |delays: &[Duration], share: f64| delays[(delays.len() as f64 * share) as usize];
        let ms = |delay: Duration| format!("{:.1}", delay.as_secs_f64() * 1e3);
        let row = |name: &str, delays: &[Duration]| {
            vec![name.to_owned(), ms(at(delays, 0.5)), ms(at(delays, 0.95))]
        };
        table::print(
            &["ten messages a second, commit to reader", "p50 ms", "p95 ms"],
            &[row("polling", &polled), row("woken by NOTIFY", &woken)],
        );
        let (p95, p50) = (at(&polled, 0.95), at(&woken, 0.5));
        let promise = "p95 at most 30 ms without NOTIFY, p50 at most 5 ms with it";
        let found = format!("{} and {} ms", ms(p95), ms(p50));
        Ok(judge(promise, &found, p95 <= POLLED_P95 && p50 <= WOKEN_P50))
    }

    /// A whole run with nothing to do.
    fn idle(&self) -> Result<Promise, Failure> {
        run_to_end(&mut cargo(["build", "--release", "--package", "piton-cli", "--bin", "piton"]))?;
        let folder = data::folder()?;
        let (configuration, output, store) =
            (folder.join("outbox.yaml"), folder.join("outbox.jsonl"), folder.join("outbox.db"));
        let mut figures = Vec::new();
        for (name, trigger) in [("polling", "DISABLE"), ("woken by NOTIFY", "ENABLE")] {
            self.sql(&format!("ALTER TABLE outbox {trigger} TRIGGER piton_outbox_notify"))?;
            for path in [&output, &store] {
                data::remove(path)?;
            }
            let text = format!(
                "pipeline: outbox\nstore: sqlite:outbox.db\nsource:\n  postgres_outbox: \
                 {{url: \"{}\"}}\nsinks:\n  file: {{jsonl: {{path: outbox.jsonl}}}}\n",
                self.url
            );
            std::fs::write(&configuration, text).map_err(Failure::at(&configuration))?;
            let mut command = Command::new(piton_binary("release")?);
            command.arg("run").arg(&configuration).stdin(Stdio::null()).stderr(Stdio::null());
            let mut piton =
                command.spawn().map_err(|error| Failure::Start("piton".to_owned(), error))?;
            thread::sleep(Duration::from_secs(6));
            self.sql("INSERT INTO outbox (message_id, message_type, data) VALUES ('x', 'T', '1')")?;
            thread::sleep(Duration::from_secs(9));
            let ids = [piton.id().to_string(), self.backend()?];
            let before = ids.each_ref().map(|id| cpu_of(id));
            thread::sleep(IDLE);
            let shares: Vec<f64> = std::iter::zip(&ids, before)
                .map(|(id, before)| (cpu_of(id).saturating_sub(before)).div_duration_f64(IDLE))
                .collect();
            let _ = piton.kill();
            let _ = piton.wait();
            figures.push((name, shares));
        }
        let percent = |share: f64| format!("{:.2}", share * 100.0);
        let rows: Vec<Vec<String>> = figures
            .iter()
            .map(|(name, s)| vec![(*name).to_owned(), percent(s[0]), percent(s[1])])
            .collect();
        table::print(&["idle", "piton % of a core", "its session in the server"], &rows);
        let most = figures.iter().map(|(_, shares)| shares[0]).fold(0.0, f64::max);
        Ok(judge("less than 1% of a core", &format!("{}%", percent(most)), most < IDLE_SHARE))
    }

    /// The process of the server that serves the pipeline.
    fn backend(&self) -> Result<String, Failure> {
        let query = "SELECT pid::text FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'piton outbox'";
        let row = self.client()?.query_one(query, &[]).map_err(|error| refused(&error))?;
        Ok(row.get(0))
    }
}

fn note_all(client: &mut Client, places: &Receiver<(String, i64)>) -> Result<(), postgres::Error> {
    let update =
        client.prepare("UPDATE place SET transaction_id = $1::text::xid8, position = $2")?;
    for (transaction, position) in places {
        client.execute(&update, &[&transaction, &position])?;
    }
    Ok(())
}

/// Processor time of a process so far, in steps of 10 ms.
pub(super) fn cpu_of(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // After the name in parentheses; utime and stime are fields 14 and 15 of the whole.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u32 = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    Duration::from_millis(10) * ticks
}
