//! Reading alone, with the place noted for each 1,000 messages, against a loop inside the server.

use std::{
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use piton_connectors::source::Read;
use postgres::Client;

use super::{
    super::{
        Promise, judge,
        measure::{Measured, alternate, median},
        table,
    },
    AT_ONCE, MESSAGES, Outbox, PAIRS, cpu_of, found, pulled, refused,
};
use crate::command::Failure;

/// The least share of the rate of the loop in the server.
const SHARE: f64 = 0.6;

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

pub(super) fn run(outbox: &Outbox) -> Result<Promise, Failure> {
    outbox.sql(DRAIN)?;
    let inside = || {
        let mut client = outbox.client()?;
        let began = Instant::now();
        client.batch_execute("CALL drain()").map_err(|error| refused(&error))?;
        Ok(Measured { wall: began.elapsed(), cpu: Duration::ZERO, peak: None })
    };
    let pairs = alternate(PAIRS, inside, || read_all(outbox))?;
    let rate = |wall: Duration| MESSAGES as f64 / wall.as_secs_f64();
    let inside = median(pairs.iter().map(|(inside, _)| rate(inside.wall)));
    let ours = median(pairs.iter().map(|(_, ours)| rate(ours.wall)));
    let cpu = pairs.iter().map(|(_, ours)| ours.cpu.as_secs_f64() * 1e6 / MESSAGES as f64);
    let share = median(pairs.iter().map(|(inside, ours)| inside.wall.div_duration_f64(ours.wall)));
    table::print(
        &["drained, 1,000 a transaction", "messages/s", "CPU of the client µs/message"],
        &[
            vec!["plpgsql loop".to_owned(), format!("{inside:.0}"), "-".to_owned()],
            vec!["piton".to_owned(), format!("{ours:.0}"), format!("{:.2}", median(cpu))],
        ],
    );
    let promise = format!("at least {SHARE} of the loop in the server");
    let drained = judge(&promise, &format!("{share:.2}"), share >= SHARE);
    Ok(drained.and(pulled::run(outbox, ours)?))
}

/// The same, read by the connector: one thread reads while another notes the place.
fn read_all(outbox: &Outbox) -> Result<Measured, Failure> {
    let mut reader = outbox.reader()?;
    let mut client = outbox.client()?;
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

fn note_all(client: &mut Client, places: &Receiver<(String, i64)>) -> Result<(), postgres::Error> {
    let update =
        client.prepare("UPDATE place SET transaction_id = $1::text::xid8, position = $2")?;
    for (transaction, position) in places {
        client.execute(&update, &[&transaction, &position])?;
    }
    Ok(())
}
