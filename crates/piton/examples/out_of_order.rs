//! Concurrent work that finishes out of order: the cursor only passes what is done without a gap.

use std::{error::Error, sync::mpsc, thread};

fn main() -> Result<(), Box<dyn Error>> {
    let store = piton::open("sqlite:piton.db")?;
    let mut cursor = piton::Cursor::<u64>::open(&store, "thumbnails")?;
    let mut tracker = piton::Tracker::bounded(64); // at most 64 in flight, so at most 64 replayed
    let (done, finished) = mpsc::channel();
    let mut next = cursor.position().map_or(0, |last| last + 1);
    while next < 1000 || tracker.in_flight() > 0 {
        while next < 1000 && tracker.has_room() {
            let Ok(ticket) = tracker.start(next) else { break };
            let (record, done) = (next, done.clone());
            thread::spawn(move || {
                work(record);
                let _ = done.send(ticket);
            });
            next += 1;
        }
        // The low-water mark moves only when the oldest in flight is done.
        if tracker.finish(finished.recv()?)
            && let Some(&all_done_up_to) = tracker.low_water()
        {
            cursor.passed(all_done_up_to)?;
        }
    }
    cursor.finish()?;
    Ok(())
}

fn work(record: u64) {
    thread::sleep(std::time::Duration::from_micros(record % 7 * 100));
}
