//! Dead letters: records set aside.

use piton_core::{
    DeadLetter, StoreError,
    checksum::{Checksum, Manifest},
};

use super::{
    Sql, Transaction, Write,
    manifest::{self, Holds, Shelf},
    trouble::{Result, altered},
    value::values,
    worker::{Done, Worker},
};

pub(crate) fn set_aside(worker: &mut Worker, letters: &[DeadLetter]) -> Result<u64, StoreError> {
    let letters: Vec<DeadLetter> = letters.iter().map(readable).collect();
    let write = Write::of_all(letters.iter().map(|letter| &*letter.pipeline)).again();
    worker.write(&write, |c, _| {
        let mut new = 0;
        for pipeline in &write.pipelines {
            let of = letters.iter().filter(|letter| letter.pipeline == *pipeline);
            new += insert(c, pipeline, of)?;
        }
        Ok(Done::Commit(new))
    })
}

/// A letter that every database can keep: what is told of a record is told to people, and no
/// database shows them the character NUL, if it keeps it at all.
fn readable(letter: &DeadLetter) -> DeadLetter {
    let text = |text: &str| text.replace('\0', "\u{FFFD}");
    DeadLetter {
        place: text(&letter.place),
        reason: text(&letter.reason),
        record: text(&letter.record),
        ..letter.clone()
    }
}

/// Inserts each letter of a pipeline that is not there yet. Returns how many were new.
pub(crate) fn insert<'a>(
    c: &mut dyn Transaction,
    pipeline: &str,
    letters: impl Iterator<Item = &'a DeadLetter>,
) -> Result<u64> {
    let sql = r#"INSERT INTO dead_letters
        (pipeline, sink, id, "partition", place, reason, record, at, checksum)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"#;
    let mut new = Manifest::default();
    for letter in letters {
        let checksum = letter.checksum();
        if c.insert_if_absent(
            sql,
            values![
                &letter.pipeline,
                &letter.sink,
                &letter.id,
                &letter.partition,
                &letter.place,
                &letter.reason,
                &letter.record,
                &letter.at.to_string(),
                checksum,
            ],
        )? {
            new = new.with(checksum);
        }
    }
    manifest::change(c, Shelf::of(Holds::DeadLetters, pipeline), |manifest| Manifest {
        rows: manifest.rows + new.rows,
        checksum: manifest.checksum.combine(new.checksum),
    })?;
    Ok(new.rows)
}

/// A pipeline's dead letters, compared with their manifest, oldest first.
pub(crate) fn all(c: &mut dyn Sql, pipeline: &str) -> Result<Vec<DeadLetter>> {
    let sql = r#"SELECT pipeline, sink, id, "partition", place, reason, record, at, checksum
        FROM dead_letters WHERE pipeline = ? ORDER BY number"#;
    let (mut letters, mut sum) = (Vec::new(), Manifest::default());
    for mut row in c.query(sql, values![pipeline])? {
        let letter = DeadLetter {
            pipeline: row.text(0)?,
            sink: row.text(1)?,
            id: row.text(2)?,
            partition: row.text(3)?,
            place: row.text(4)?,
            reason: row.text(5)?,
            record: row.text(6)?,
            at: row.time(7)?,
        };
        let checksum = row.checksum(8)?;
        if letter.checksum() != checksum {
            return Err(altered("dead_letters", &letter.id));
        }
        sum = sum.with(checksum);
        letters.push(letter);
    }
    manifest::check(c, Shelf::of(Holds::DeadLetters, pipeline), sum)?;
    Ok(letters)
}

/// Removes letters by sink and id. Returns how many there were.
pub(crate) fn drop_all(c: &mut dyn Sql, pipeline: &str, ids: &[(String, String)]) -> Result<u64> {
    let find = "SELECT checksum FROM dead_letters WHERE pipeline = ? AND sink = ? AND id = ?";
    let delete = "DELETE FROM dead_letters WHERE pipeline = ? AND sink = ? AND id = ?";
    let (mut dropped, mut sum) = (0, Checksum::default());
    for (sink, id) in ids {
        for mut row in c.query(find, values![pipeline, sink, id])? {
            sum = sum.combine(row.checksum(0)?);
            dropped += c.execute(delete, values![pipeline, sink, id])?;
        }
    }
    manifest::change(c, Shelf::of(Holds::DeadLetters, pipeline), |manifest| Manifest {
        rows: manifest.rows.saturating_sub(dropped),
        checksum: manifest.checksum.combine(sum),
    })?;
    Ok(dropped)
}
