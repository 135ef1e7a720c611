//! Logs that are written, rotated in every way, and followed by a reader that stops and starts.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use piton_core::StoredPosition;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    file::{
        settings::{CsvSettings, FileSettings, JsonlSettings, Types},
        source::positions,
    },
    source::{Source, Start},
};

const TIMES: Times = Times {
    settle: Duration::from_millis(4),
    search: Duration::from_millis(30),
    look: Duration::from_millis(2),
    pause: Duration::from_millis(1),
};

/// A log and its reader.
struct Log {
    folder: TempDir,
    source: FileSource,
    reader: Option<FollowReader>,
    /// What was read: ids and rows.
    seen: Vec<(String, String)>,
    /// The last position of each partition.
    at: Vec<Start>,
}

impl Log {
    fn of(settings: impl Into<FileSettings>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = FileSource::new(settings, folder.path(), 1 << 16).unwrap();
        Self { folder, source, reader: None, seen: Vec::new(), at: Vec::new() }
    }

    fn jsonl() -> Self {
        Self::of(JsonlSettings { follow: true, ..JsonlSettings::at("app.log") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn start(&mut self) -> Result<(), SourceError> {
        let positions = positions(&self.at).unwrap();
        self.reader = Some(FollowReader::new(self.source.clone(), &positions, TIMES)?);
        Ok(())
    }

    /// Reads one batch, if there is one. Positions may only grow.
    fn read(&mut self, limit: usize) -> Result<bool, SourceError> {
        if self.reader.is_none() {
            self.start()?;
        }
        match self.reader.as_mut().unwrap().read(limit)? {
            Read::Batch(batch) => {
                for row in 0..batch.rows() {
                    let mut json = Vec::new();
                    batch.write_json(row, &mut json).unwrap();
                    self.seen.push((batch.id(row), String::from_utf8(json).unwrap()));
                    self.note(&batch.partition, batch.resume_at(row));
                }
                self.note(&batch.partition, batch.end.clone());
                Ok(true)
            }
            Read::Bad(bad) => {
                self.seen.push((bad.id, bad.reason));
                self.note(&bad.partition, bad.end);
                Ok(true)
            }
            Read::Idle => Ok(false),
            Read::Finished => panic!("a log that is followed has no end"),
        }
    }

    fn note(&mut self, partition: &str, position: StoredPosition) {
        // Invariant 2: a position never goes back.
        let order = self.source.order();
        match self.at.iter_mut().find(|start| start.partition == partition) {
            Some(start) => {
                let before = start.position.replace(position).unwrap();
                let after = start.position.as_ref().unwrap();
                assert!(order(&before, after).unwrap().is_le(), "{before} then {after}");
            }
            None => self.at.push(Start { partition: partition.into(), position: Some(position) }),
        }
    }

    /// Reads until there has been nothing for long enough to have gone through a rotation.
    fn drain(&mut self) -> Result<(), SourceError> {
        let mut idle = 0;
        while idle < 15 {
            idle = if self.read(7)? { 0 } else { idle + 1 };
        }
        Ok(())
    }

    /// Reads until so many rows have been read, and there is nothing more.
    fn read_all(&mut self, rows: usize) {
        let begin = Instant::now();
        while self.seen.len() < rows && begin.elapsed() < Duration::from_secs(5) {
            self.read(7).unwrap();
        }
        self.drain().unwrap();
    }

    fn rows(&self) -> Vec<&str> {
        self.seen.iter().map(|(_, row)| row.as_str()).collect()
    }

    fn rotate(&self) {
        fs::rename(self.path("app.log"), self.path("app.log.1")).unwrap();
    }

    fn copy_and_cut(&self) {
        fs::copy(self.path("app.log"), self.path("app.log.1")).unwrap();
        OpenOptions::new().write(true).open(self.path("app.log")).unwrap().set_len(0).unwrap();
    }
}

fn compress(from: &Path, to: &Path) {
    let mut encoder = GzEncoder::new(fs::File::create(to).unwrap(), Compression::fast());
    encoder.write_all(&fs::read(from).unwrap()).unwrap();
    encoder.finish().unwrap();
    fs::remove_file(from).unwrap();
}

#[test]
fn a_line_is_waited_for_until_it_is_whole() {
    let mut log = Log::jsonl();
    log.write("app.log", "{\"n\":1}\n{\"n\"");
    log.drain().unwrap();
    assert_eq!(log.rows(), ["{\"n\":1}"]);
    log.write("app.log", ":2}");
    log.drain().unwrap();
    assert_eq!(log.rows().len(), 1);
    log.write("app.log", "\n{\"n\":3}\n");
    log.drain().unwrap();
    assert_eq!(log.rows(), ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"]);
    assert_eq!(log.seen[2].0, "app.log@16");
}

#[test]
fn a_file_that_was_moved_away_is_read_to_its_end_first() {
    let mut log = Log::jsonl();
    log.write("app.log", "{\"n\":1}\n");
    log.drain().unwrap();
    log.rotate();
    // The writer has not noticed yet, and then the last line has no end.
    log.write("app.log.1", "{\"n\":2}\n");
    log.write("app.log", "{\"n\":4}\n");
    log.write("app.log.1", "{\"n\":3}");
    log.drain().unwrap();
    assert_eq!(log.rows(), ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}", "{\"n\":4}"]);
    assert_eq!(log.seen[2].0, "app.log@16");
    assert_eq!(log.seen[3].0, "app.log@1.0");
    let stored = log.at[0].position.as_ref().unwrap();
    assert!(stored.json.starts_with("{\"rotation\":1,\"offset\":8,\"line\":2,"), "{stored}");
}

#[test]
fn a_file_that_was_moved_away_may_be_written_a_little_longer() {
    let mut log = Log::jsonl();
    log.write("app.log", "{\"n\":1}\n");
    let times = Times { settle: Duration::from_millis(500), ..TIMES };
    log.reader = Some(FollowReader::new(log.source.clone(), &[], times).unwrap());
    log.drain().unwrap();
    log.rotate();
    log.write("app.log", "{\"n\":3}\n");
    log.drain().unwrap();
    log.write("app.log.1", "{\"n\":2}\n");
    log.read_all(3);
    assert_eq!(log.rows(), ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"]);
}

#[test]
fn what_was_rotated_before_is_not_read() {
    let mut log = Log::jsonl();
    log.write("app.log.1", "{\"n\":0}\n");
    log.write("app.log", "{\"n\":1}\n");
    for n in 2..5 {
        log.drain().unwrap();
        if n == 3 {
            log.reader = None;
            log.drain().unwrap();
        }
        // Nothing beside it tells where the file was that is gone.
        fs::remove_file(log.path("app.log")).unwrap();
        log.write("app.log", &format!("{{\"n\":{n}}}\n"));
    }
    log.drain().unwrap();
    assert_eq!(log.rows(), ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}", "{\"n\":4}"]);
}

#[test]
fn what_was_cut_away_unread_is_read_from_the_copy() {
    for regrown in [false, true] {
        let mut log = Log::jsonl();
        log.write("app.log", &"{\"n\":1}\n".repeat(10));
        // The reader lags behind: by the second batch the file is another.
        assert!(log.read(2).unwrap());
        log.reader.as_mut().unwrap().files[0].forget_read_ahead();
        log.write("app.log", "{\"n\":2}\n");
        log.copy_and_cut();
        if regrown {
            log.write("app.log", &"{\"n\":3,\"x\":[]}\n".repeat(20));
        } else {
            log.write("app.log", "{\"n\":3}\n");
        }
        log.drain().unwrap();
        let rows = log.rows();
        assert_eq!(rows[..11], [&["{\"n\":1}"; 10][..], &["{\"n\":2}"]].concat(), "{regrown}");
        assert_eq!(rows.len(), if regrown { 31 } else { 12 });
        assert!(rows[11..].iter().all(|row| row.starts_with("{\"n\":3")));
    }
}

#[test]
fn a_cut_file_is_noticed_even_where_what_follows_is_blank() {
    let mut log = Log::jsonl();
    log.write("app.log", &"{\"n\":1}\n".repeat(10));
    log.drain().unwrap();
    log.write("app.log", "{\"n\":2}\n");
    log.copy_and_cut();
    let line = format!("{{\"n\":3,\"x\":\"{}\"}}\n", "x".repeat(66));
    assert_eq!(line.len(), 81);
    log.write("app.log", &line);
    log.drain().unwrap();
    assert_eq!(log.seen[10], ("app.log@80".into(), "{\"n\":2}".into()));
    assert_eq!(log.seen[11], ("app.log@1.0".into(), line.trim_end().into()));
}

#[test]
fn a_cut_file_is_noticed_even_where_it_has_grown_to_the_same_length() {
    let mut log = Log::jsonl();
    log.write("app.log", &"{\"n\":1}\n".repeat(10));
    log.read_all(10);
    // File systems tell times in steps of some milliseconds.
    thread::sleep(Duration::from_millis(30));
    log.copy_and_cut();
    log.write("app.log", &"{\"n\":2}\n".repeat(10));
    log.read_all(20);
    assert_eq!(log.rows(), [["{\"n\":1}"; 10], ["{\"n\":2}"; 10]].concat());
}

#[test]
fn a_copy_with_the_name_of_the_oldest_brings_no_older_one_back() {
    let mut log = Log::jsonl();
    log.write("app.log.3", "{\"n\":0}\n");
    log.write("app.log", &"{\"n\":1}\n".repeat(10));
    log.read_all(10);
    fs::copy(log.path("app.log"), log.path("app.log.9")).unwrap();
    fs::write(log.path("app.log"), "{\"n\":2}\n").unwrap();
    log.read_all(11);
    assert_eq!(log.rows(), [&["{\"n\":1}"; 10][..], &["{\"n\":2}"]].concat());
}

#[test]
fn what_is_lost_is_a_named_gap() {
    // Invariant 4: a source that cannot continue is a named gap, never a silent jump.
    let gap = |change: &dyn Fn(&Log), running: bool| {
        let mut log = Log::jsonl();
        log.write("app.log", "{\"n\":1}\n{\"n\":2}\n");
        log.drain().unwrap();
        if !running {
            log.reader = None;
        }
        change(&log);
        log.write("app.log", "{\"n\":3}\n");
        let error = loop {
            match log.drain() {
                Ok(()) => {}
                Err(error @ SourceError::Gap { .. }) => break error.to_string(),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!(log.rows().len(), 2, "{error}");
        if !running {
            let start = log.at[0].clone();
            assert_eq!(log.source.verify(&start, true).unwrap_err().to_string(), error);
        }
        // An operator can accept it.
        log.source = log.source.clone().accepting_changes(true);
        log.source.verify(&log.at[0].clone(), true).unwrap();
        log.reader = None;
        log.drain().unwrap();
        assert_eq!(log.seen[2..], [("app.log@1.0".into(), "{\"n\":3}".into())]);
        error
    };
    let cut = |log: &Log| fs::write(log.path("app.log"), "").unwrap();
    let error = gap(&cut, true);
    assert!(error.contains("was cut while it was read, and no copy of it"), "{error}");
    let error = gap(&cut, false);
    assert!(error.contains("was shortened") && error.contains("no file beside it"), "{error}");
    let gone = |log: &Log| {
        log.rotate();
        fs::remove_file(log.path("app.log.1")).unwrap();
        log.write("app.log.1", "{\"n\":0}\n");
    };
    let error = gap(&gone, false);
    assert!(error.contains("is gone from its path, and no file beside it"), "{error}");
    let twice = |log: &Log| {
        fs::copy(log.path("app.log"), log.path("app.log.copy")).unwrap();
        fs::copy(log.path("app.log"), log.path("app.log.1")).unwrap();
        fs::remove_file(log.path("app.log")).unwrap();
    };
    let error = gap(&twice, false);
    assert!(error.contains("both begin with what was read"), "{error}");
}

#[test]
fn what_comes_too_late_is_a_named_gap() {
    let mut log = Log::jsonl();
    log.write("app.log", "{\"n\":1}\n");
    log.drain().unwrap();
    log.rotate();
    log.write("app.log", "{\"n\":2}\n");
    log.drain().unwrap();
    assert_eq!(log.rows().len(), 2);
    log.write("app.log.1", "{\"late\":1}\n");
    let error = log.drain().unwrap_err().to_string();
    assert!(error.contains("11 bytes were written to the rotated file"), "{error}");
    // The next run goes on.
    log.reader = None;
    log.write("app.log", "{\"n\":3}\n");
    log.drain().unwrap();
    assert_eq!(log.rows(), ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"]);
}

#[test]
fn new_files_become_partitions_and_rotated_ones_do_not() {
    let mut log = Log::of(JsonlSettings { follow: true, ..JsonlSettings::at("*") });
    log.drain().unwrap();
    log.write("a.log", "{\"n\":1}\n");
    log.write("a.log.1", "{\"n\":0}\n");
    log.drain().unwrap();
    log.write("b.log", "{\"n\":2}\n");
    log.write("a.log-20260131", "{\"n\":0}\n");
    log.drain().unwrap();
    assert_eq!(log.rows(), ["{\"n\":1}", "{\"n\":2}"]);
    assert_eq!(log.source.partitions().unwrap(), ["a.log", "b.log"]);
    let missing = Log::jsonl();
    assert!(matches!(missing.source.reader(&[]).map(drop), Err(SourceError::Missing { .. })));
}

#[test]
fn csv_has_a_header_in_every_file() {
    let csv = CsvSettings { follow: true, types: Types::Auto, ..CsvSettings::at("app.log") };
    let mut log = Log::of(csv);
    log.write("app.log", "id,na");
    log.drain().unwrap();
    log.write("app.log", "me\n");
    log.drain().unwrap();
    assert!(log.seen.is_empty());
    log.write("app.log", "1,x\n");
    log.drain().unwrap();
    log.rotate();
    log.write("app.log", "id,na");
    log.drain().unwrap();
    log.write("app.log", "me\n7,y\nz,y\n");
    log.drain().unwrap();
    log.reader = None;
    log.write("app.log", "8,\"a\nb\"\n");
    log.drain().unwrap();
    let rows = log.rows();
    assert_eq!(rows[..2], ["{\"id\":1,\"name\":\"x\"}", "{\"id\":7,\"name\":\"y\"}"]);
    assert!(rows[2].starts_with("'z' is not an integer"));
    assert_eq!(rows[3..], ["{\"id\":8,\"name\":\"a\\nb\"}"]);
}

#[test]
fn a_compressed_file_is_not_followed() {
    let mut log = Log::jsonl();
    log.write("plain", "{\"n\":1}\n");
    compress(&log.path("plain"), &log.path("app.log"));
    let Err(SourceError::Settings { what }) = log.drain() else { panic!("it was followed") };
    assert!(what.contains("cannot be followed"), "{what}");
}

/// What may happen to a log.
#[derive(Debug, Clone)]
enum Happening {
    /// So many lines are written.
    Write(usize),
    /// The file is moved away, and another is begun.
    Rename,
    /// The file is copied and cut.
    Copy,
    /// The latest generation that was moved away is compressed.
    Compress,
    /// So many batches of so many records are read.
    Read(usize, usize),
    /// All there is is read.
    Drain,
    /// The reader stops and, later, another begins where it was.
    Stop,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..40_usize).prop_map(Happening::Write),
        2 => Just(Happening::Rename),
        2 => Just(Happening::Copy),
        2 => Just(Happening::Compress),
        3 => (1..3_usize, 1..20_usize).prop_map(|(batches, rows)| Happening::Read(batches, rows)),
        1 => Just(Happening::Drain),
        2 => Just(Happening::Stop),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Invariant 6: whatever happens to the files, each line is read once and in order. Between the
    /// rotations something of each generation was read, as the position knows a file by that.
    #[test]
    fn each_line_is_read_once_through_every_rotation(
        happenings in prop::collection::vec(happening(), 1..16),
    ) {
        let mut log = Log::jsonl();
        let mut written = 0;
        write(&log, &mut written, 3);
        log.drain().unwrap();
        for happening in happenings {
            match happening {
                Happening::Write(lines) => write(&log, &mut written, lines),
                Happening::Rename => {
                    shift(&log);
                    log.rotate();
                    write(&log, &mut written, 2);
                }
                Happening::Copy => {
                    // Which file was cut is known by what was read of it.
                    write(&log, &mut written, 1);
                    log.read_all(written);
                    write(&log, &mut written, 5);
                    shift(&log);
                    log.copy_and_cut();
                    write(&log, &mut written, 2);
                }
                Happening::Compress if log.path("app.log.1").exists() => {
                    compress(&log.path("app.log.1"), &log.path("app.log.1.gz"));
                }
                Happening::Compress => {}
                Happening::Read(batches, rows) => {
                    for _ in 0..batches {
                        log.read(rows).unwrap();
                    }
                }
                Happening::Drain => log.drain().unwrap(),
                Happening::Stop => log.reader = None,
            }
        }
        log.read_all(written);
        let expected: Vec<_> = (0..written).map(|n| format!("{{\"n\":{n}}}")).collect();
        prop_assert_eq!(log.rows(), expected);
        let mut ids: Vec<_> = log.seen.iter().map(|(id, _)| id).collect();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), written);
    }
}

fn write(log: &Log, written: &mut usize, lines: usize) {
    let text: Vec<_> = (0..lines).map(|n| format!("{{\"n\":{}}}\n", *written + n)).collect();
    log.write("app.log", &text.concat());
    *written += lines;
}

/// Makes the generations that were moved away one older, plain or compressed.
fn shift(log: &Log) {
    for age in (1..30).rev() {
        for end in ["", ".gz"] {
            let from = log.path(&format!("app.log.{age}{end}"));
            if from.exists() {
                fs::rename(from, log.path(&format!("app.log.{}{end}", age + 1))).unwrap();
            }
        }
    }
}
