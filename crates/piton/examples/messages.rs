//! State and position, saved together. The first run crashes in the middle; run it again.

use std::{error::Error, ops::RangeInclusive};

use piton::{Cursor, Options, Policy};

fn main() -> Result<(), Box<dyn Error>> {
    let store = piton::open("sqlite:piton.db")?;
    // This program says itself when to save.
    let options = Options { checkpoint: Policy::Off, keep: true, ..Default::default() };
    let mut cursor = Cursor::<u64>::open_with(&store, "messages", options)?;
    let first = cursor.position().map_or(1, |last| last + 1);
    let total = cursor.state::<u64>()?.unwrap_or(0);
    println!("begins with message {first}; the total so far is {total}");
    if first == 1 {
        read(&mut cursor, 1..=4)?;
        cursor.save()?; // four messages and their total
        read(&mut cursor, 5..=8)?;
        std::process::abort(); // a crash: of these four nothing is left
    }
    read(&mut cursor, first..=first + 4)?;
    cursor.save()?;
    println!("has read five more; the total is {:?}", cursor.state::<u64>()?);
    Ok(cursor.stop()?)
}

fn read(cursor: &mut Cursor<u64>, messages: RangeInclusive<u64>) -> Result<(), Box<dyn Error>> {
    for message in messages {
        let total = cursor.state::<u64>()?.unwrap_or(0) + message;
        cursor.set_state(&total)?;
        cursor.passed(message)?;
    }
    Ok(())
}
