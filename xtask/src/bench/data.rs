//! The data that benchmarks read: `demo/flights.csv`, repeated with new ids.

use std::{
    fs::{File, TryLockError},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use crate::command::{Failure, root};

/// The folder for what benchmarks read and write. Build output, so that it is never in the way.
pub(super) fn folder() -> Result<PathBuf, Failure> {
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder).map_err(Failure::at(&folder))?;
    Ok(folder)
}

/// The right to measure: two benchmarks at once would disturb each other and share their files.
///
/// # Errors
/// When another benchmark is at work here.
pub(super) fn alone() -> Result<File, Failure> {
    let path = folder()?.join("lock");
    let file = File::create(&path).map_err(Failure::at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Failure::Found(format!(
            "another benchmark is running in {}: wait until it has finished",
            folder()?.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Failure::File(path, error)),
    }
}

/// A CSV file of that many rows. Made once, and kept.
pub(super) fn flights(rows: usize) -> Result<PathBuf, Failure> {
    let path = folder()?.join(format!("flights-{rows}.csv"));
    if path.exists() {
        return Ok(path);
    }
    let demo = root().join("demo/flights.csv");
    let text = std::fs::read_to_string(&demo).map_err(Failure::at(&demo))?;
    // Under another name until it is whole: a half-written file would be kept.
    let unfinished = path.with_extension("unfinished");
    let file = File::create(&unfinished).map_err(Failure::at(&unfinished))?;
    repeat(&text, rows, BufWriter::new(file)).map_err(Failure::at(&unfinished))?;
    std::fs::rename(&unfinished, &path).map_err(Failure::at(&path))?;
    Ok(path)
}

/// The names of the columns, separated by commas.
pub(super) fn header() -> Result<String, Failure> {
    let demo = root().join("demo/flights.csv");
    let text = std::fs::read_to_string(&demo).map_err(Failure::at(&demo))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

fn repeat(text: &str, rows: usize, mut out: impl Write) -> std::io::Result<()> {
    let mut lines = text.lines();
    writeln!(out, "{}", lines.next().unwrap_or_default())?;
    for (id, line) in (1..=rows).zip(lines.cycle()) {
        let values = line.split_once(',').map_or("", |(_, values)| values);
        writeln!(out, "{id},{values}")?;
    }
    out.flush()
}

/// Removes what an earlier run has written: a file or database, and what is kept beside it.
pub(super) fn remove(path: &Path) -> Result<(), Failure> {
    for beside in ["", "-wal", "-shm", "-journal", ".lock"] {
        let mut name = path.as_os_str().to_owned();
        name.push(beside);
        let path = PathBuf::from(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::File(path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn rows_are_repeated_with_new_ids() {
        let mut out = Vec::new();
        super::repeat("id,a\n1,x\n2,y\n", 3, &mut out).unwrap();
        assert_eq!(out, "id,a\n1,x\n2,y\n3,x\n".as_bytes());
    }
}
