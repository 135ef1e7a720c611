//! A row written for each message, in the transaction of the checkpoint: a whole run of `piton`,
//! against a loop inside the server.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    super::{
        Promise, data, judge,
        measure::{Measured, alternate, median, range},
        table,
    },
    AT_ONCE, MESSAGES, Outbox, PAIRS, cpu_of, refused,
};
use crate::command::Failure;

/// The least share of the rate of the loop in the server.
const SHARE: f64 = 0.6;
const LOOK: Duration = Duration::from_millis(10);
/// After so long without an end, something is wrong.
const PATIENCE: Duration = Duration::from_mins(5);

const RELAY: &str = "CREATE OR REPLACE PROCEDURE relay() LANGUAGE plpgsql AS $$
DECLARE t xid8 := '0'; p bigint := 0; n int; m record;
BEGIN
  LOOP
    n := 0;
    FOR m IN SELECT transaction_id, position, message_id, message_type, data, scheduled FROM outbox
      WHERE (transaction_id, position) > (t, p)
      AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
      ORDER BY transaction_id, position LIMIT 1000
    LOOP
      INSERT INTO written VALUES
        (m.transaction_id, m.position, m.message_id, m.message_type, m.data, m.scheduled);
      t := m.transaction_id; p := m.position; n := n + 1;
    END LOOP;
    EXIT WHEN n = 0;
    UPDATE place SET transaction_id = t, position = p;
    COMMIT;
  END LOOP;
END $$";

/// The tables of both sides, empty, and nothing left to write for the server.
const EMPTY: &str = "DROP TABLE IF EXISTS written, piton_checkpoints, piton_manifest;
DROP FUNCTION IF EXISTS piton_checkpoints_deleted, piton_checkpoints_updated;
CREATE TABLE written (transaction_id ID, position bigint, message_id text, message_type text,
  data jsonb, scheduled timestamptz)";

pub(super) fn run(outbox: &Outbox) -> Result<Promise, Failure> {
    outbox.sql(RELAY)?;
    let sink = format!(
        "target: {{postgres: {{url: \"{}\", table: written, mode: append, create: false}}}}",
        outbox.url
    );
    let relay = Relay::prepare(outbox, &sink, &format!("checkpoint: {{records: {AT_ONCE}}}"))?;
    let pairs = alternate(PAIRS, || inside(outbox), || outside(outbox, &relay))?;
    let rate = |measured: &Measured| MESSAGES as f64 / measured.wall.as_secs_f64();
    let loops = || pairs.iter().map(|(inside, _)| rate(inside));
    let ours = || pairs.iter().map(|(_, ours)| rate(ours));
    let cpu = pairs.iter().map(|(_, ours)| ours.cpu.as_secs_f64() * 1e6 / MESSAGES as f64);
    let shares = || pairs.iter().map(|(a, b)| a.wall.div_duration_f64(b.wall));
    let row = |name: &str, rate: f64, (low, high): (f64, f64), cpu: String| {
        vec![name.to_owned(), format!("{rate:.0}"), format!("{low:.0} to {high:.0}"), cpu]
    };
    table::print(
        &["a row for each, 1,000 a transaction", "messages/s", "range", "CPU of piton µs/message"],
        &[
            row("plpgsql loop", median(loops()), range(loops()), "-".to_owned()),
            row("piton run", median(ours()), range(ours()), format!("{:.2}", median(cpu))),
        ],
    );
    let promise = format!("a row written for each: at least {SHARE} of the loop in the server");
    let share = median(shares());
    Ok(judge(&promise, &format!("{share:.2}"), share >= SHARE))
}

fn inside(outbox: &Outbox) -> Result<Measured, Failure> {
    empty(outbox, "xid8")?;
    let mut client = outbox.client()?;
    let began = Instant::now();
    client.batch_execute("CALL relay()").map_err(|error| refused(&error))?;
    Ok(Measured { wall: began.elapsed(), cpu: Duration::ZERO, peak: None })
}

/// From the start of the program to the COMMIT of the last message.
fn outside(outbox: &Outbox, relay: &Relay) -> Result<Measured, Failure> {
    empty(outbox, "bigint")?;
    let mut client = outbox.client()?;
    let began = Instant::now();
    let mut piton = relay.start()?;
    // A row is there from the first transaction on, in which the table of checkpoints is made.
    let records = "SELECT coalesce(max(records), 0) FROM piton_checkpoints";
    let mut done = 0;
    while done < MESSAGES as i64 && began.elapsed() < PATIENCE {
        thread::sleep(LOOK);
        done = client.query_one(records, &[]).map_or(0, |row| row.get(0));
    }
    let wall = began.elapsed();
    let cpu = cpu_of(&piton.id().to_string());
    let _ = piton.kill();
    let _ = piton.wait();
    let written = client.query_one("SELECT count(*) FROM written", &[]);
    let written: i64 = written.map_err(|error| refused(&error))?.get(0);
    if written != MESSAGES as i64 {
        return Err(Failure::Found(format!("piton wrote {written} of {MESSAGES} messages")));
    }
    Ok(Measured { wall, cpu, peak: None })
}

fn empty(outbox: &Outbox, id: &str) -> Result<(), Failure> {
    outbox.sql(&EMPTY.replace("ID", id))?;
    outbox.sql("CHECKPOINT")
}

/// `piton run` from the outbox, each time from its beginning.
pub(super) struct Relay {
    piton: PathBuf,
    configuration: PathBuf,
    /// Removed before each run.
    written: [PathBuf; 2],
}

impl Relay {
    /// Writes the configuration of the pipeline `outbox`. `sink` is a line of
    /// YAML, which may write to `outbox.out`, `more` any further lines.
    pub(super) fn prepare(outbox: &Outbox, sink: &str, more: &str) -> Result<Self, Failure> {
        let folder = data::folder()?;
        let configuration = folder.join("outbox.yaml");
        let text = format!(
            "pipeline: outbox\nstore: sqlite:outbox.db\nsource:\n  postgres_outbox: \
             {{url: \"{}\"}}\nsinks:\n  {sink}\n{more}\n",
            outbox.url
        );
        std::fs::write(&configuration, text).map_err(Failure::at(&configuration))?;
        let written = ["outbox.db", "outbox.out"].map(|name| folder.join(name));
        Ok(Self { piton: outbox.piton.clone(), configuration, written })
    }

    /// Starts it from its beginning. It has no end.
    pub(super) fn start(&self) -> Result<Child, Failure> {
        self.start_with(Stdio::null())
    }

    /// The same with what it writes to its standard output.
    pub(super) fn start_with(&self, stdout: Stdio) -> Result<Child, Failure> {
        self.written.iter().try_for_each(|path| data::remove(path))?;
        let mut command = Command::new(&self.piton);
        command.arg("run").arg(&self.configuration).stdin(Stdio::null());
        command.stdout(stdout).stderr(Stdio::null());
        command.spawn().map_err(|error| Failure::Start("piton".to_owned(), error))
    }
}
