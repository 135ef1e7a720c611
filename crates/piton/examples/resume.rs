//! A loop over records that resumes: kill it and run it again.
//!
//! One row in the store while the job is under way; none once it is done.

use std::{error::Error, thread, time::Duration};

fn main() -> Result<(), Box<dyn Error>> {
    let store = piton::open("sqlite:piton.db")?;
    let mut cursor = piton::Cursor::<u64>::open(&store, "import")?;
    let first = cursor.position().map_or(0, |last| last + 1);
    println!("starting at record {first}");
    for record in first..100_000 {
        work(record);
        cursor.passed(record)?; // saves when the interval is over, not each time
    }
    cursor.finish()?;
    println!("done");
    Ok(())
}

fn work(record: u64) {
    if record.is_multiple_of(1000) {
        thread::sleep(Duration::from_millis(10));
    }
}
