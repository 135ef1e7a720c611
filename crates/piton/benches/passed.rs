//! What a cursor costs a record, beside what reading the clock alone costs: `cargo bench -p piton`.

use std::{
    error::Error,
    hint::black_box,
    time::{Duration, Instant},
};

use piton::{Cursor, Options, Policy, asynchronous, rusqlite::Connection};

const RECORDS: u64 = 20_000_000;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let store = piton::open(&format!("sqlite:{}", folder.path().join("piton.db").display()))?;

    let clock = nanoseconds(RECORDS, || {
        for _ in 0..RECORDS {
            black_box(Instant::now());
        }
        Ok(())
    })?;
    println!("reading the clock              {clock:8.1} ns");

    for (name, checkpoint) in [
        ("default interval", Policy::default()),
        ("every 100 ms", Policy::Fixed { every: Some(Duration::from_millis(100)), records: None }),
        ("every million", Policy::Fixed { every: None, records: Some(1_000_000) }),
    ] {
        let options = Options { checkpoint, ..Default::default() };
        let mut cursor = Cursor::<u64>::open_with(&store, name, options)?;
        let each = nanoseconds(RECORDS, || {
            for record in 0..RECORDS {
                cursor.passed(black_box(record))?;
            }
            Ok(())
        })?;
        println!("passed, {name:<22} {each:8.1} ns");
        cursor.finish()?;
    }

    let each = pollster::block_on(async {
        let mut cursor = asynchronous::Cursor::<u64>::open(&store, "async").await?;
        let began = Instant::now();
        for record in 0..RECORDS {
            cursor.passed(black_box(record)).await?;
        }
        let each = began.elapsed().as_secs_f64() * 1e9 / RECORDS as f64;
        cursor.finish().await?;
        Ok::<f64, Box<dyn Error>>(each)
    })?;
    println!("passed, async                  {each:8.1} ns");

    let mut conn = Connection::open(folder.path().join("app.db"))?;
    conn.pragma_update(None, "journal_mode", "wal")?;
    conn.execute_batch("CREATE TABLE effects (n INTEGER)")?;
    let transactions = 20_000;
    conn.pragma_update(None, "synchronous", "off")?;
    let bare = nanoseconds(transactions, || {
        for n in 0..transactions {
            let tx = conn.transaction()?;
            tx.prepare_cached("INSERT INTO effects VALUES (?1)")?.execute([n])?;
            tx.commit()?;
        }
        Ok(())
    })?;
    let mut cursor = piton::sqlite::Cursor::<u64>::open(&store, &mut conn, "effects")?;
    let joined = nanoseconds(transactions, || {
        for n in 0..transactions {
            let _ = cursor.transaction(&mut conn, n, |tx| {
                tx.prepare_cached("INSERT INTO effects VALUES (?1)")?.execute([n])?;
                Ok(())
            })?;
        }
        Ok(())
    })?;
    println!("a transaction without syncs    {bare:8.1} ns; with its checkpoint {joined:8.1} ns");
    Ok(())
}

fn nanoseconds(
    records: u64,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<f64, Box<dyn Error>> {
    let began = Instant::now();
    work()?;
    Ok(began.elapsed().as_secs_f64() * 1e9 / records as f64)
}
