//! Concurrent work that finishes out of order: the cursor only passes what is done without a gap.

use std::{error::Error, sync::mpsc, thread, time::Duration};

fn main() -> Result<(), Box<dyn Error>> {
    let store = piton::open("sqlite:piton.db")?;
    let mut cursor = piton::Cursor::<u64>::open(&store, "thumbnails")?;
    let mut tracker = piton::Tracker::bounded(64); // at most 64 in flight
    let (done, finished) = mpsc::channel();
    let mut records = cursor.position().map_or(0, |last| last + 1)..1000;
    loop {
        while tracker.has_room() {
            let Some(record) = records.next() else { break };
            let Ok(ticket) = tracker.start(record) else { break };
            let done = done.clone();
            thread::spawn(move || {
                work(record);
                done.send(ticket)
            });
        }
        let in_flight = tracker.in_flight();
        if in_flight == 0 {
            break;
        }
        // The low-water mark moves only when the oldest in flight is done.
        if tracker.finish(finished.recv()?) {
            let passed = (in_flight - tracker.in_flight()) as u64;
            let Some(low_water) = tracker.low_water() else { continue };
            cursor.passed_many(*low_water, passed)?;
        }
    }
    Ok(cursor.finish()?)
}

fn work(record: u64) {
    thread::sleep(Duration::from_micros(record % 7 * 100));
}
