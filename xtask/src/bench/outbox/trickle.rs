//! Ten messages a second: how long after its commit each is read.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc::channel,
    thread,
    time::{Duration, Instant},
};

use piton_connectors::{
    postgres_outbox::ddl,
    source::{Read, Reader},
};

use super::{
    super::{Promise, judge, table},
    AT_ONCE, Outbox, found, refused,
    relayed::Relay,
};
use crate::command::Failure;

const TRICKLE: Duration = Duration::from_millis(100);
const TRICKLED: u32 = 150;
/// A sink that is written to at each checkpoint gets these often.
const CHECKPOINT: &str = "checkpoint: {every: 1ms}";
const POLLED_P95: Duration = Duration::from_millis(30);
const WOKEN_P50: Duration = Duration::from_millis(5);

pub(super) fn run(outbox: &Outbox) -> Result<Promise, Failure> {
    outbox.sql("TRUNCATE outbox")?;
    let polled = to_reader(outbox)?;
    outbox.sql("TRUNCATE outbox")?;
    let run_polled = to_stdout(outbox)?;
    outbox.sql(&ddl(&outbox.settings(), true))?;
    let woken = to_reader(outbox)?;
    outbox.sql("TRUNCATE outbox")?;
    let run_woken = to_stdout(outbox)?;
    let at = |delays: &[Duration], share: f64| delays[(delays.len() as f64 * share) as usize];
    let ms = |delay: Duration| format!("{:.1}", delay.as_secs_f64() * 1e3);
    let row = |name: &str, delays: &[Duration]| {
        vec![name.to_owned(), ms(at(delays, 0.5)), ms(at(delays, 0.95))]
    };
    table::print(
        &["ten messages a second, from commit", "p50 ms", "p95 ms"],
        &[
            row("to the reader, polling", &polled),
            row("to the reader, woken by NOTIFY", &woken),
            row("to the output of piton run, polling", &run_polled),
            row("to the output of piton run, woken", &run_woken),
        ],
    );
    let p95 = at(&polled, 0.95).max(at(&run_polled, 0.95));
    let p50 = at(&woken, 0.5).max(at(&run_woken, 0.5));
    let promise = "p95 at most 30 ms without NOTIFY, p50 at most 5 ms with it";
    let found = format!("{} and {} ms", ms(p95), ms(p50));
    Ok(judge(promise, &found, p95 <= POLLED_P95 && p50 <= WOKEN_P50))
}

/// From commit to a reader in this process.
fn to_reader(outbox: &Outbox) -> Result<Vec<Duration>, Failure> {
    let mut reader = reader_at_end(outbox)?;
    delays(outbox, |seen| {
        while seen.len() < TRICKLED as usize {
            if let Read::Batch(batch) = reader.read(AT_ONCE).map_err(|error| found(&error))? {
                let now = Instant::now();
                seen.extend((0..batch.rows()).map(|_| now));
            }
        }
        Ok(())
    })
}

/// From commit to a line of a whole run that writes to its standard output.
fn to_stdout(outbox: &Outbox) -> Result<Vec<Duration>, Failure> {
    let relay = Relay::prepare(outbox, "out: {stdout: {}}", CHECKPOINT)?;
    let mut piton = relay.start_with(Stdio::piped())?;
    // Until it has begun.
    thread::sleep(Duration::from_secs(1));
    let lines = piton.stdout.take().map(BufReader::new);
    let delays = delays(outbox, |seen| {
        let lines = lines.into_iter().flat_map(BufRead::lines).take(TRICKLED as usize);
        for line in lines {
            line.map_err(|error| found(&error))?;
            seen.push(Instant::now());
        }
        Ok(())
    });
    let _ = piton.kill();
    let _ = piton.wait();
    delays
}

/// From commit until a message is seen, for messages that come alone.
fn delays(
    outbox: &Outbox,
    see_all: impl FnOnce(&mut Vec<Instant>) -> Result<(), Failure>,
) -> Result<Vec<Duration>, Failure> {
    let mut client = outbox.client()?;
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
    see_all(&mut seen)?;
    appends.join().map_err(|_| Failure::Found("appending panicked".to_owned()))??;
    if seen.len() < TRICKLED as usize {
        return Err(Failure::Found(format!("only {} of {TRICKLED} messages came", seen.len())));
    }
    let mut delays: Vec<Duration> = seen
        .into_iter()
        .zip(committed.iter())
        .map(|(seen, committed)| seen.saturating_duration_since(committed))
        .collect();
    delays.sort();
    Ok(delays)
}

/// A reader of what is to come, past all that is there.
fn reader_at_end(outbox: &Outbox) -> Result<Box<dyn Reader>, Failure> {
    let mut reader = outbox.reader()?;
    let mut idle = 0;
    while idle < 3 {
        match reader.read(AT_ONCE).map_err(|error| found(&error))? {
            Read::Idle => idle += 1,
            _ => idle = 0,
        }
    }
    Ok(reader)
}
