//! Keyed state of the program, saved together with the position: a running total per account.
//!
//! Only the entries that changed are written.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let payments = [("ann", 5_i64), ("bob", 7), ("ann", 1), ("cid", 4), ("bob", 2)];
    let store = piton::open("sqlite:piton.db")?;
    let options = piton::Options { keep: true, ..Default::default() };
    let mut cursor = piton::Cursor::<u64>::open_with(&store, "balances", options)?;
    let first = cursor.position().map_or(0, |last| last + 1);
    for (n, (account, amount)) in (0..).zip(payments).skip(first as usize) {
        let total = cursor.get::<i64>(account)?.unwrap_or(0) + amount;
        cursor.put(account, &total)?;
        cursor.passed(n)?; // a save writes the position and the changed totals, or neither
    }
    for (account, total) in cursor.entries::<i64>()? {
        println!("{account} has {total}");
    }
    Ok(cursor.finish()?)
}
