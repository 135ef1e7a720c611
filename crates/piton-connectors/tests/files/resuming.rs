//! Going on after a stop: at every record, and never in a file that is another.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use piton_connectors::source::{Source, SourceError};
use serde_json::json;
use tempfile::tempdir;

use super::*;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The same text in the three packings; gzip as two members.
fn packings(text: &[u8]) -> [(&'static str, Vec<u8>); 3] {
    let (first, second) = text.split_at(text.len() / 2);
    [
        ("plain", text.to_vec()),
        ("gz", [gzip(first), gzip(second)].concat()),
        ("zst", zstd::encode_all(text, 1).unwrap()),
    ]
}

fn append(path: &Path, text: &[u8]) {
    OpenOptions::new().append(true).open(path).unwrap().write_all(text).unwrap();
}

fn csv_text() -> Vec<u8> {
    let mut text = b"\xef\xbb\xbfid,text\r\n".to_vec();
    for n in 0..40 {
        let line = match n % 5 {
            0 => format!("{n},plain\n"),
            1 => format!("{n},\"two\nlines\"\r\n"),
            2 => format!("{n},\"a \"\"quote\"\"\"\r"),
            3 => format!("\n\r\n{n},\u{e9}\n"),
            _ => format!("{n},ragged,{n}\n"),
        };
        text.extend(line.bytes());
    }
    text.extend(b"last,without a line end");
    text
}

fn jsonl_text() -> Vec<u8> {
    let mut text = Vec::new();
    for n in 0..40 {
        let line = match n % 4 {
            0 => format!("{{\"id\":{n}}}\n"),
            1 => format!("\n {{\"id\":{n},\"k{n}\":\"\u{e9}\\n\"}}\r\n"),
            2 => format!("{{\"id\":{n},\n"),
            _ => format!("{{\"x\":[{n}]}}\n"),
        };
        text.extend(line.bytes());
    }
    text.extend(b"{\"last\":true}");
    text
}

#[test]
fn reading_goes_on_at_every_record_as_if_it_had_not_stopped() {
    let folder = tempdir().unwrap();
    for (kind, text) in [("csv", csv_text()), ("jsonl", jsonl_text())] {
        for (packing, bytes) in packings(&text) {
            let name = format!("a.{kind}.{packing}");
            fs::write(folder.path().join(&name), bytes).unwrap();
            let source = source(folder.path(), kind, json!({"path": name}));
            let all = read_from(&source, &[], 1000);
            assert_eq!(all.len(), 41, "{name}");
            for limit in [1, 3, 1000] {
                resumes_everywhere(&source, &all, limit);
            }
        }
    }
}

fn resumes_everywhere(source: &FileSource, all: &[Seen], limit: usize) {
    let items: Vec<_> = all.iter().map(|seen| &seen.item).collect();
    let seen = read_from(source, &[], limit);
    assert_eq!(ids(seen.iter().map(|seen| &seen.item)), ids(items.iter().copied()));
    for (n, seen) in seen.iter().enumerate() {
        for (position, rest) in [(&seen.at, n), (&seen.after, n + 1)] {
            let Some(position) = position else { continue };
            let start = start(&seen.partition, position);
            source.verify(&start, true).unwrap();
            let again = read_from(source, &[start], 1000);
            let again = ids(again.iter().map(|seen| &seen.item));
            assert_eq!(again, ids(items[rest..].iter().copied()), "from item {rest} by {limit}");
        }
    }
}

/// Id and content. Fingerprints within a bad record's end depend on where batches began.
fn ids<'a>(items: impl Iterator<Item = &'a Item>) -> Vec<String> {
    let told = |item: &Item| match item {
        Item::Row { id, json } => format!("{id} {json}"),
        Item::Bad(bad) => format!("{} {} {} {}", bad.id, bad.place, bad.reason, bad.record),
    };
    items.map(told).collect()
}

#[test]
fn positions_of_a_partition_are_ordered() {
    // Invariant 2: a position never goes back.
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("a.csv"), csv_text()).unwrap();
    let source = csv(folder.path(), "a.csv");
    let order = source.order();
    let seen = read_from(&source, &[], 4);
    let positions: Vec<_> =
        seen.iter().flat_map(|seen| [&seen.at, &seen.after]).flatten().collect();
    for pair in positions.windows(2) {
        assert_ne!(order(pair[0], pair[1]), Some(std::cmp::Ordering::Greater));
        assert!(order(pair[0], pair[1]).is_some());
    }
}

#[test]
fn a_grown_file_gives_its_new_rows() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.csv");
    fs::write(&path, "a\n1\n2").unwrap();
    let source = csv(folder.path(), "a.csv");
    let position = end(&source);
    assert!(read_from(&source, std::slice::from_ref(&position), 10).is_empty());
    append(&path, b"\n3\n");
    source.verify(&position, true).unwrap();
    let later = read_from(&source, &[position], 10);
    assert_eq!(ids(later.iter().map(|seen| &seen.item)), ["a.csv@6 {\"a\":\"3\"}"]);
}

/// Applies a change after `text` was consumed up to its end; gives the refusal.
fn refusal(text: &[u8], change: impl FnOnce(&Path), thorough: bool) -> Result<(), SourceError> {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.csv");
    fs::write(&path, text).unwrap();
    let source = csv(folder.path(), "a.csv");
    let position = end(&source);
    change(&path);
    let verified = source.verify(&position, thorough);
    if !thorough {
        // Reading refuses what verifying refuses.
        let reading = source.reader(&[position]).and_then(|mut reader| reader.read(1).map(drop));
        assert_eq!(
            reading.map_err(|e| e.to_string()),
            verified.as_ref().copied().map_err(ToString::to_string)
        );
    }
    verified
}

#[test]
fn a_file_that_is_not_the_one_that_was_read_is_refused_by_name() {
    // Invariant 4: a source that cannot continue is a named gap, never a silent jump.
    let text = b"a\n1\n2\n3";
    for (change, expected) in [
        (
            &|path: &Path| append(path, b"4\n") as _,
            "line 4 was consumed as the last one, without a line end, and was continued",
        ),
        (
            &|path: &Path| fs::write(path, b"a\n1\n2").unwrap(),
            "was shortened: 7 bytes of it were consumed, and it now has 5",
        ),
        (
            &|path: &Path| fs::write(path, b"a\n1\n9\n3").unwrap(),
            "was rewritten: 7 bytes of it were consumed, and they are no longer the same (it now has 7)",
        ),
        (&|path: &Path| fs::write(path, b"b\n1\n2\n3\n4\n").unwrap(), "was rewritten"),
        (&|path: &Path| fs::remove_file(path).unwrap(), "the file is gone"),
    ] as [(&dyn Fn(&Path), &str); 5]
    {
        let error = match refusal(text, change, false) {
            Err(error @ (SourceError::Gap { .. } | SourceError::Missing { .. })) => {
                error.to_string()
            }
            other => panic!("{expected}: {other:?}"),
        };
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("`piton reset`"), "{error}");
    }
}

#[test]
fn every_byte_of_a_small_file_is_watched() {
    let text = csv_text();
    for at in 0..text.len() {
        let change = |path: &Path| {
            let mut changed = text.clone();
            changed[at] ^= 0x20;
            fs::write(path, changed).unwrap();
        };
        assert!(matches!(refusal(&text, change, false), Err(SourceError::Gap { .. })), "byte {at}");
    }
}

#[test]
fn head_and_tail_of_a_large_file_are_watched_and_all_of_it_on_demand() {
    const CHUNK: usize = 64 * 1024;
    let mut text = b"a\n".to_vec();
    for n in 0..70_000 {
        text.extend(format!("{n}\n").bytes());
    }
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.csv");
    fs::write(&path, &text).unwrap();
    let source = csv(folder.path(), "a.csv");
    let position = end(&source);
    let end = text.len();
    let tail = end / CHUNK * CHUNK - CHUNK;
    let corners = [0, CHUNK - 1, CHUNK, 2 * CHUNK, tail - 1, tail, end - CHUNK, end - 1];
    for at in (0..end).step_by(9973).chain(corners) {
        let mut changed = text.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        let quick = source.verify(&position, false).is_err();
        assert_eq!(quick, at < CHUNK || at >= tail, "byte {at}");
        assert!(source.verify(&position, true).is_err(), "byte {at}");
    }
    fs::write(&path, &text).unwrap();
    source.verify(&position, true).unwrap();
}

#[test]
fn a_changed_compressed_file_is_refused() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.csv.gz");
    let text = csv_text();
    fs::write(&path, gzip(&text)).unwrap();
    let source = csv(folder.path(), "a.csv.gz");
    let position = end(&source);
    for at in (0..text.len()).step_by(7) {
        let mut changed = text.clone();
        changed[at] ^= 1;
        fs::write(&path, gzip(&changed)).unwrap();
        assert!(
            matches!(source.verify(&position, false), Err(SourceError::Gap { .. })),
            "byte {at}"
        );
    }
    fs::write(&path, gzip(&text[..100])).unwrap();
    assert!(source.verify(&position, false).unwrap_err().to_string().contains("shortened"));
    // Packed anew, otherwise or not at all, it is the same stream.
    fs::write(&path, zstd::encode_all(&text[..], 3).unwrap()).unwrap();
    source.verify(&position, false).unwrap();
    fs::write(&path, &text).unwrap();
    source.verify(&position, false).unwrap();
}

#[test]
fn a_truncated_compressed_file_gives_what_is_whole_and_then_fails() {
    let folder = tempdir().unwrap();
    let mut text = b"a,b\n".to_vec();
    for n in 0..30_000_u32 {
        text.extend(format!("{n},{}\n", n.wrapping_mul(2_654_435_761)).bytes());
    }
    for (name, packed) in &packings(&text)[1..] {
        let path = folder.path().join(name);
        fs::write(&path, &packed[..packed.len() * 3 / 4]).unwrap();
        let source = csv(folder.path(), name);
        let mut reader = source.reader(&[]).unwrap();
        let Err((seen, SourceError::Io { path: told, .. })) = drain(&mut *reader, 1000) else {
            panic!("{name} was read to its end")
        };
        assert_eq!(told, path);
        assert!(seen.len() > 1000, "{name}: {}", seen.len());
        let last = seen.last().unwrap();
        // Once it is whole, reading goes on where it stopped.
        fs::write(&path, packed).unwrap();
        let rest = read_from(&source, &[start(name, last.after.as_ref().unwrap())], 1000);
        assert_eq!(seen.len() + rest.len(), 30_000, "{name}");
    }
}

#[test]
fn an_operator_can_accept_a_changed_file_but_not_a_shorter_one() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a.csv");
    fs::write(&path, "a\n1\n2\n").unwrap();
    let source = csv(folder.path(), "a.csv");
    let position = end(&source);
    let accepting = source.clone().accepting_changes(true);
    fs::write(&path, "a\n11\n22\n33\n").unwrap();
    assert!(source.verify(&position, false).is_err());
    accepting.verify(&position, false).unwrap();
    // Byte 6 lies within `22`: the next whole line is the next record.
    let later = read_from(&accepting, std::slice::from_ref(&position), 10);
    assert_eq!(ids(later.iter().map(|seen| &seen.item)), ["a.csv@8 {\"a\":\"33\"}"]);
    let next = later[0].after.clone().unwrap();
    source.verify(&start("a.csv", &next), true).unwrap();
    fs::write(&path, "a\n1\n").unwrap();
    assert!(matches!(accepting.verify(&position, false), Err(SourceError::Gap { .. })));
}

#[test]
fn a_position_of_another_kind_is_refused() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("a.csv"), "a\n1\n").unwrap();
    let source = csv(folder.path(), "a.csv");
    for (kind, json) in [("sql", "{}"), ("file", "{}"), ("file", ""), ("file", "{\"offset\":2}")] {
        let foreign = StoredPosition { kind: kind.into(), json: json.into() };
        let start = start("a.csv", &foreign);
        assert!(matches!(source.verify(&start, false), Err(SourceError::Position(_))));
        assert!(matches!(source.reader(&[start]).map(drop), Err(SourceError::Position(_))));
    }
}
