//! How fast files are read and written, beside bare programs without checkpoints that do the same.
//!
//! `cargo run --release -p piton-connectors --example file_speed [ROWS]`

use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    time::{Duration, Instant},
};

use piton_connectors::{
    file::{CsvSettings, FileSettings, FileSink, FileSource, JsonlSettings, JsonlSinkSettings},
    sink::{PlainSink, Resume},
    source::{Read, Source},
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const HEADER: &str = "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,\
                      arr_delay,carrier,flight,tailnum,origin,dest,air_time,distance,hour,minute,time_hour";

fn main() -> Outcome<()> {
    let rows: u64 = std::env::args().nth(1).map_or(Ok(300_000), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    make(folder.path(), rows)?;
    let table = [
        ("csv crate: read records", measure(|| bare_read(folder.path()))?),
        ("piton: read csv", measure(|| read(folder.path(), CsvSettings::at("in.csv").into()))?),
        ("piton: read csv, types: auto", measure(|| read(folder.path(), typed("in.csv")))?),
        (
            "piton: read quoted csv",
            measure(|| read(folder.path(), CsvSettings::at("quoted.csv").into()))?,
        ),
        (
            "piton: read jsonl",
            measure(|| read(folder.path(), JsonlSettings::at("in.jsonl").into()))?,
        ),
        ("bare: csv crate to serde_json", measure(|| bare_csv_to_jsonl(folder.path()))?),
        ("piton: csv to jsonl, synced once", measure(|| csv_to_jsonl(folder.path(), rows))?),
        ("piton: csv to jsonl, synced each 10k", measure(|| csv_to_jsonl(folder.path(), 10_000))?),
    ];
    assert_eq!(
        std::fs::read(folder.path().join("out.jsonl"))?,
        std::fs::read(folder.path().join("bare.jsonl"))?
    );
    for (what, time) in table {
        println!(
            "{what:36} {:6.0} ns/row {:8.0} rows/s",
            time.as_nanos() as f64 / rows as f64,
            rows as f64 / time.as_secs_f64()
        );
    }
    Ok(())
}

/// The best of five.
fn measure(mut run: impl FnMut() -> Outcome<u64>) -> Outcome<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begin = Instant::now();
        run()?;
        best = best.min(begin.elapsed());
    }
    Ok(best)
}

fn make(folder: &Path, rows: u64) -> Outcome<()> {
    let mut csv = BufWriter::new(File::create(folder.join("in.csv"))?);
    let mut quoted = BufWriter::new(File::create(folder.join("quoted.csv"))?);
    let mut jsonl = BufWriter::new(File::create(folder.join("in.jsonl"))?);
    writeln!(csv, "{HEADER}")?;
    writeln!(quoted, "{HEADER}")?;
    for n in 0..rows {
        let (hour, minute, delay) = (n % 24, n % 60, (n * 7 % 90) as i64 - 20);
        let line = format!(
            "2013,{},{},{},{},{delay},{},{},{},UA,{},N{},EWR,IAH,{},{},{hour},{minute},2013-01-01T{hour:02}:00:00Z",
            n % 12 + 1,
            n % 28 + 1,
            hour * 100 + minute,
            n % 2400,
            n % 2400,
            n % 2399,
            delay + 3,
            n % 6000,
            n % 99999,
            n % 600,
            n % 3000
        );
        writeln!(csv, "{line}")?;
        writeln!(quoted, "\"{}\"", line.replace(',', "\",\""))?;
        let pairs = HEADER.split(',').zip(line.split(',')).map(|(name, value)| {
            if value.parse::<i64>().is_ok() {
                format!("\"{name}\":{value}")
            } else {
                format!("\"{name}\":\"{value}\"")
            }
        });
        writeln!(jsonl, "{{{}}}", pairs.collect::<Vec<_>>().join(","))?;
    }
    csv.flush()?;
    quoted.flush()?;
    Ok(jsonl.flush()?)
}

fn typed(path: &str) -> FileSettings {
    CsvSettings { types: piton_connectors::file::Types::Auto, ..CsvSettings::at(path) }.into()
}

fn read(folder: &Path, settings: FileSettings) -> Outcome<u64> {
    let mut reader = FileSource::new(settings, folder, 16 << 20)?.reader(&[])?;
    let mut rows = 0;
    loop {
        match reader.read(10_000)? {
            Read::Batch(batch) => rows += batch.records,
            Read::Finished => return Ok(rows),
            other => return Err(format!("{other:?}").into()),
        }
    }
}

fn csv_to_jsonl(folder: &Path, every: u64) -> Outcome<u64> {
    let mut reader = FileSource::new(CsvSettings::at("in.csv"), folder, 16 << 20)?.reader(&[])?;
    let settings = JsonlSinkSettings { path: "out.jsonl".to_owned() };
    let mut sink = FileSink::jsonl(&settings, folder)?;
    let _ =
        sink.open(&Resume { output: Some(piton_core::Output::Truncate), ..Resume::default() })?;
    let (mut rows, mut pending) = (0, 0);
    loop {
        match reader.read(10_000)? {
            Read::Batch(batch) => {
                rows += sink.write(&batch, 0..batch.rows())?.rows;
                pending += batch.records;
                if pending >= every {
                    let _ = sink.durable()?;
                    pending = 0;
                }
            }
            Read::Finished => {
                let _ = sink.durable()?;
                return Ok(rows);
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
}

/// What a program without checkpoints does.
fn bare_csv_to_jsonl(folder: &Path) -> Outcome<u64> {
    let mut reader = csv::Reader::from_path(folder.join("in.csv"))?;
    let header = reader.headers()?.clone();
    let mut out = BufWriter::new(File::create(folder.join("bare.jsonl"))?);
    let mut record = csv::StringRecord::new();
    let mut rows = 0;
    while reader.read_record(&mut record)? {
        let mut json = serde_json::Serializer::new(&mut out);
        serde::Serializer::collect_map(&mut json, header.iter().zip(record.iter()))?;
        out.write_all(b"\n")?;
        rows += 1;
    }
    out.flush()?;
    Ok(rows)
}

fn bare_read(folder: &Path) -> Outcome<u64> {
    let mut reader = csv::Reader::from_path(folder.join("in.csv"))?;
    let mut record = csv::StringRecord::new();
    let mut rows = 0;
    while reader.read_record(&mut record)? {
        rows += 1;
    }
    Ok(rows)
}
