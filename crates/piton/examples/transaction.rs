//! A handler whose effects and checkpoint share one transaction: each payment counts exactly once,
//! wherever the process is killed.

use std::error::Error;

use piton::rusqlite::Connection;

fn main() -> Result<(), Box<dyn Error>> {
    let mut conn = Connection::open("bank.db")?;
    conn.execute_batch("CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, balance)")?;
    let store = piton::open("sqlite:piton.db")?;
    let options = piton::Options { keep: true, ..Default::default() };
    let mut cursor = piton::sqlite::Cursor::open_with(&store, &mut conn, "payments", options)?;
    let first = cursor.position().map_or(0, |last| last + 1);
    for n in first..1000 {
        let (account, amount) = payment(n);
        // The position is stored, then the effects run, then both commit.
        let saved = cursor.transaction(&mut conn, n, |tx| {
            let sql = "INSERT INTO accounts VALUES (?1, ?2)
                       ON CONFLICT DO UPDATE SET balance = balance + ?2";
            tx.execute(sql, (account, amount))?;
            Ok(())
        })?;
        if !saved.is_stored() {
            return Err(format!("payment {n} was not made: {saved:?}").into());
        }
    }
    Ok(cursor.finish(&mut conn)?)
}

fn payment(n: u64) -> (&'static str, u64) {
    (["ann", "bob", "cid"][n as usize % 3], n)
}
