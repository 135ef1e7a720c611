//! An outbox in PostgreSQL: drained and relayed, against loops inside the server that do the same and
//! against pulling as others do it; how late a lone message is seen; and what waiting costs.

mod drained;
mod idle;
mod pulled;
mod relayed;
mod trickle;

use std::{path::PathBuf, time::Duration};

use piton_connectors::{
    postgres::connect::describe,
    postgres_outbox::{OutboxSettings, OutboxSource, ddl},
    source::{Reader, Source, SourceError, Start},
};
use piton_testkit::service::{Postgres, ServiceError};
use postgres::{Client, NoTls};

use super::Promise;
use crate::command::{Failure, cargo, piton_binary, run as run_to_end};

const MESSAGES: usize = 500_000;
/// Messages read at once, and in one transaction.
const AT_ONCE: usize = 1000;
const PAIRS: usize = 5;

pub(super) fn run() -> Result<Promise, Failure> {
    // First, so that nothing is built between two measurements.
    run_to_end(&mut cargo(["build", "--release", "--package", "piton-cli", "--bin", "piton"]))?;
    let piton = piton_binary("release")?;
    let server = Postgres::options().line("max_wal_size = 8GB").start();
    let server = server.map_err(|error: ServiceError| found(&error))?;
    let url = server.database().map_err(|error| found(&error))?;
    let outbox = Outbox { url, piton };
    outbox.make()?;
    let promises = [
        drained::run(&outbox)?,
        relayed::run(&outbox)?,
        trickle::run(&outbox)?,
        idle::run(&outbox)?,
    ];
    Ok(promises.into_iter().fold(Promise::Kept, Promise::and))
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
    /// The program.
    piton: PathBuf,
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
        self.settle("outbox")
    }

    /// Leaves the server nothing to do for a table that was just filled.
    fn settle(&self, table: &str) -> Result<(), Failure> {
        self.sql(&format!("VACUUM ANALYZE {table}"))?;
        self.sql("CHECKPOINT")
    }

    fn reader(&self) -> Result<Box<dyn Reader>, Failure> {
        let source = OutboxSource::new(&self.settings(), "bench", 16 << 20, false);
        let start = Start { partition: "outbox".to_owned(), position: None };
        let reader = source.and_then(|source| source.reader(&[start]));
        reader.map_err(|error: SourceError| found(&error))
    }
}

/// Processor time of a process so far, in steps of 10 ms.
pub(super) fn cpu_of(process: &str) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // After the name in parentheses; utime and stime are fields 14 and 15 of the whole.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    let ticks: u32 = fields.skip(11).take(2).filter_map(|field| field.parse::<u32>().ok()).sum();
    Duration::from_millis(10) * ticks
}
