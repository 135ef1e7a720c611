//! The program's own state, saved together with the position: a running total per account.
//!
//! Of keyed state only the entries that changed are written.

use std::{collections::HashMap, error::Error};

fn main() -> Result<(), Box<dyn Error>> {
    let payments = [("ann", 5_i64), ("bob", 7), ("ann", 1), ("cid", 4), ("bob", 2)];
    let store = piton::open("sqlite:piton.db")?;
    let options = piton::Options { keep: true, ..Default::default() };
    let mut cursor = piton::Cursor::<u64>::open_with(&store, "balances", options)?;
    let first = cursor.position().map_or(0, |last| last + 1);
    let mut totals: HashMap<&str, i64> = HashMap::new(); // read on demand
    for (n, (account, amount)) in (0_u64..).zip(payments).skip(first as usize) {
        let stored = cursor.get(account)?.unwrap_or(0);
        let total = totals.entry(account).or_insert(stored);
        *total += amount;
        cursor.put(account, total)?;
        cursor.passed(n)?; // a save writes the position and the changed totals, or neither
    }
    println!("ann has {}", cursor.get::<i64>("ann")?.unwrap_or(0));
    cursor.finish()?;
    Ok(())
}
