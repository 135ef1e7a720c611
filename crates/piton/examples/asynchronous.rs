//! The async form, here on tokio: records are worked on concurrently and passed without a gap.

use std::{error::Error, time::Duration};

use piton::{Tracker, asynchronous::Cursor};
use tokio::task::JoinSet;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let store = piton::open("sqlite:piton.db")?;
    let mut cursor = Cursor::<u64>::open(&store, "fetch").await?;
    let mut tracker = Tracker::bounded(16);
    let mut tasks = JoinSet::new();
    let mut records = cursor.position().map_or(0, |last| last + 1)..200;
    loop {
        while tracker.has_room() {
            let Some(record) = records.next() else { break };
            let Ok(ticket) = tracker.start(record) else { break };
            tasks.spawn(async move {
                fetch(record).await;
                ticket
            });
        }
        let Some(ticket) = tasks.join_next().await else { break };
        let in_flight = tracker.in_flight();
        if tracker.finish(ticket?) {
            let passed = (in_flight - tracker.in_flight()) as u64;
            let Some(low_water) = tracker.low_water() else { continue };
            cursor.passed_many(*low_water, passed).await?;
        }
    }
    Ok(cursor.finish().await?)
}

async fn fetch(record: u64) {
    tokio::time::sleep(Duration::from_micros(record % 5 * 300)).await;
}
