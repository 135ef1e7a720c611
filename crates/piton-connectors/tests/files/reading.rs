//! What records are read, and how bad ones are told of.

use std::{fs, io::Write as _};

use piton_connectors::source::{Read, Source, SourceError};
use serde_json::json;
use tempfile::tempdir;

use super::*;

#[test]
fn csv_is_read_with_its_quotes_and_line_ends() {
    let folder = tempdir().unwrap();
    let text = "\u{feff}id,\"na\"\"me\",\r\n1,a b,x\r\n\r\n2,\"two\nlines, \"\"quoted\"\"\",\n3,\u{e9},\"\"";
    fs::write(folder.path().join("a.csv"), text).unwrap();
    let seen = read(&csv(folder.path(), "a.csv"));
    let json: Vec<_> = seen.iter().map(|seen| seen.item.json()).collect();
    assert_eq!(
        json,
        [
            r#"{"id":"1","na\"me":"a b","column_3":"x"}"#,
            r#"{"id":"2","na\"me":"two\nlines, \"quoted\"","column_3":""}"#,
            "{\"id\":\"3\",\"na\\\"me\":\"\u{e9}\",\"column_3\":\"\"}",
        ]
    );
    let Item::Row { id, .. } = &seen[2].item else { panic!() };
    assert_eq!(*id, format!("a.csv@{}", text.find("3,").unwrap()));
}

#[test]
fn columns_have_the_types_they_were_given() {
    let folder = tempdir().unwrap();
    let text = "a;b;c;d;e;f;g\n1;1;1.50;12345678901234567890.10;Yes;{\"x\": [1]};t\n;;NA;;;;\n";
    fs::write(folder.path().join("a.csv"), text).unwrap();
    let types = json!({"a": "integer", "b": "float", "c": "float", "d": "number", "e": "boolean", "f": "json"});
    let given = json!({"path": "a.csv", "delimiter": ";", "types": types, "null": "NA"});
    assert_eq!(
        rows(&source(folder.path(), "csv", given)),
        [
            r#"{"a":1,"b":1.0,"c":1.5,"d":12345678901234567890.10,"e":true,"f":{"x": [1]},"g":"t"}"#,
            r#"{"a":null,"b":null,"c":null,"d":null,"e":null,"f":null,"g":""}"#,
        ]
    );
}

#[test]
fn a_guess_stays_what_it_was() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("b.csv");
    fs::write(&path, "id,zip,x\n1,01234,1\n2,5,2.5\n").unwrap();
    let auto = source(folder.path(), "csv", json!({"path": "*.csv", "types": "auto"}));
    assert_eq!(rows(&auto), [r#"{"id":1,"zip":"01234","x":1.0}"#, r#"{"id":2,"zip":"5","x":2.5}"#]);
    // What comes later does not change it: not more rows, not another first file.
    let position = end(&auto);
    fs::write(folder.path().join("a.csv"), "id,zip,x\nk7,7,word\n").unwrap();
    fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"A3,6,x\n4,,\n").unwrap();
    let later = read_from(&auto, &[position], 10);
    let told: Vec<_> = later.iter().map(|seen| seen.item.json()).collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].starts_with("'k7' is not an integer"), "{told:?}");
    assert!(told[1].starts_with("'A3' is not an integer"), "{told:?}");
    assert_eq!(told[2], r#"{"id":4,"zip":"","x":null}"#);
}

#[test]
fn a_bad_record_names_its_place_and_reading_goes_on() {
    let folder = tempdir().unwrap();
    let mut text = b"id,delay\n1,2\n2\n3,x\n4,\xff\n5,6,7\n\"8\",9\n".to_vec();
    text.extend(b"9,\"never closed\n10,11\n");
    fs::write(folder.path().join("f.csv"), text).unwrap();
    let given = json!({"path": "f.csv", "types": {"delay": "integer"}});
    let mut told = Vec::new();
    for seen in read(&source(folder.path(), "csv", given)) {
        told.push(match seen.item {
            Item::Row { json, .. } => json,
            Item::Bad(bad) => format!("{}: {} [{}] {}", bad.place, bad.reason, bad.record, bad.id),
        });
    }
    let expected = [
        r#"{"id":"1","delay":2}"#,
        "f.csv, line 3: 1 field where the header has 2 [2] f.csv@13",
        "f.csv, line 4, column 2 (delay): 'x' is not an integer of 64 bits [3,x] f.csv@15",
        "f.csv, line 5, column 2 (delay): not UTF-8: byte 3 of the record is 0xff [4,\u{fffd}] f.csv@19",
        "f.csv, line 6: 3 fields where the header has 2 [5,6,7] f.csv@23",
        r#"{"id":"8","delay":9}"#,
        "f.csv, line 8: a quote is opened and never closed; the line was passed over \
         [9,\"never closed] f.csv@35",
        r#"{"id":"10","delay":11}"#,
    ];
    assert_eq!(told, expected);
}

#[test]
fn two_halves_of_a_character_in_two_fields_are_not_one() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("f.csv"), b"a,b\n\"\xc3\",\"\xa9\"\n").unwrap();
    assert!(rows(&csv(folder.path(), "f.csv"))[0].starts_with("not UTF-8"));
}

#[test]
fn json_lines_keep_their_fields() {
    let folder = tempdir().unwrap();
    let text = "{\"a\":1,\"b\":{\"c\":[1, 2]}}\r\n\n  {\"b\":null,\"d\":\"x\\ny\",\"a\":0.10}  \n[1]\n{\"a\":}\n{\"e\":18446744073709551616}";
    fs::write(folder.path().join("a.jsonl"), text).unwrap();
    let seen = read(&jsonl(folder.path(), "a.jsonl"));
    let told: Vec<_> = seen.iter().map(|seen| seen.item.json()).collect();
    assert_eq!(
        told,
        [
            r#"{"a":1,"b":{"c":[1, 2]}}"#,
            r#"{"a":0.1,"b":null,"d":"x\ny"}"#,
            "not an object but an array (a record is one object on one line)",
            "not valid JSON: expected value",
            r#"{"e":18446744073709551616}"#,
        ]
    );
    let Item::Bad(bad) = &seen[3].item else { panic!() };
    assert_eq!(bad.place, "a.jsonl, line 5, column 6");
}

/// Peak memory is what the buffers may grow to; here, that a huge line costs one record.
#[test]
fn a_record_past_the_limit_is_one_bad_record() {
    // Invariant 8: memory is bounded by configuration. The windows' own test measures the buffer.
    let folder = tempdir().unwrap();
    let long = "x".repeat(3 << 20);
    fs::write(
        folder.path().join("a.csv"),
        format!("a,b\n1,{long}\n2,\"open\n3,4\n{long},5\n6,7\n"),
    )
    .unwrap();
    let seen = read(&csv(folder.path(), "a.csv"));
    let told: Vec<_> = seen.iter().map(|seen| seen.item.json()).collect();
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(told[0].contains("longer than `limits: {record: 1048576}` bytes; its first line"));
    assert!(told[1].contains("a quote may not be closed; its first line was passed over"));
    assert_eq!(told[2], r#"{"a":"3","b":"4"}"#);
    assert!(told[3].contains("longer than"));
    assert_eq!(told[4], r#"{"a":"6","b":"7"}"#);
    let Item::Bad(bad) = &seen[0].item else { panic!() };
    assert!(bad.record.len() < 5000 && bad.record.starts_with("1,xxx"));
    assert!(bad.record.ends_with("[abridged]"));

    fs::write(folder.path().join("a.jsonl"), format!("{{\"a\":\"{long}\"}}\n{{\"a\":1}}\n"))
        .unwrap();
    let told = rows(&jsonl(folder.path(), "a.jsonl"));
    assert_eq!(told[1..], [r#"{"a":1}"#]);
}

#[test]
fn batches_are_bounded_by_rows_and_by_text() {
    let folder = tempdir().unwrap();
    let line = format!("{}\n", "y".repeat(1000));
    fs::write(folder.path().join("a.csv"), format!("a\n{}", line.repeat(2000))).unwrap();
    let mut reader = csv(folder.path(), "a.csv").reader(&[]).unwrap();
    let mut rows = 0;
    while let Read::Batch(batch) = reader.read(100_000).unwrap() {
        assert!(batch.size() < 512 * 1024, "{}", batch.size());
        rows += batch.rows();
    }
    assert_eq!(rows, 2000);
}

#[test]
fn sparse_rows_of_many_keys_stay_small() {
    // Invariant 8: keys that never come again do not fill the memory.
    let folder = tempdir().unwrap();
    let lines: Vec<_> = (0..50_000).map(|n| format!("{{\"k{n}\":1}}\n")).collect();
    let text = lines.concat();
    fs::write(folder.path().join("a.jsonl"), text).unwrap();
    let mut reader = jsonl(folder.path(), "a.jsonl").reader(&[]).unwrap();
    let mut rows = 0;
    while let Read::Batch(batch) = reader.read(10_000).unwrap() {
        assert!(batch.size() < 3 << 20, "{}", batch.size());
        assert!(batch.schema.columns.len() < 4096, "{}", batch.schema.columns.len());
        let last = batch.rows() - 1;
        assert_eq!(row_json(&batch, last), format!("{{\"k{}\":1}}", rows + last));
        rows += batch.rows();
    }
    assert_eq!(rows, 50_000);
}

#[test]
fn a_glob_is_read_in_the_order_of_names() {
    let folder = tempdir().unwrap();
    fs::create_dir_all(folder.path().join("d[1]/sub.csv")).unwrap();
    let base = folder.path().join("d[1]");
    for (name, text) in
        [("b.csv", "x\n3\n"), ("a.csv", "x,y\n1,2\n"), ("c.txt", "x\n9\n"), ("d.csv", "")]
    {
        fs::write(base.join(name), text).unwrap();
    }
    let source = csv(&base, "./*.csv");
    assert_eq!(source.partitions().unwrap(), ["a.csv", "b.csv", "d.csv"]);
    assert_eq!(rows(&source), [r#"{"x":"1","y":"2"}"#, r#"{"x":"3"}"#]);
    let starts = [end(&source)];
    assert_eq!(source.progress(&starts), Some((4, 8 + 4)));
    assert_eq!(csv(&base, "a.csv").partitions().unwrap(), ["a.csv"]);
}

#[test]
fn settings_that_cannot_work_are_refused() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("twice.csv"), "a,b,a\n1,2,3\n").unwrap();
    fs::write(folder.path().join("a.csv"), "a,b\n1,2\n").unwrap();
    let refusal = |value: serde_json::Value| {
        let settings = serde_json::from_value::<CsvSettings>(value).map_err(|e| e.to_string())?;
        let source = FileSource::new(settings, folder.path(), LIMIT).map_err(|e| e.to_string())?;
        let mut reader = source.reader(&[]).map_err(|e| e.to_string())?;
        reader.read(10).map(drop).map_err(|e| e.to_string())
    };
    for (given, expected) in [
        (json!({"path": "none.csv"}), "nothing to read: none.csv"),
        (json!({"path": "*.none"}), "nothing to read: *.none"),
        (json!({"path": "twice.csv"}), "names the column 'a' twice, as columns 1 and 3"),
        (json!({"path": "."}), "is not a regular file"),
        (json!({"path": "a.csv", "delimiter": "\u{20ac}"}), "not one ASCII character"),
        (json!({"path": "a.csv", "quote": "''"}), "one character is needed"),
        (json!({"path": "a.csv", "quote": ","}), "must differ"),
        (json!({"path": "a.csv", "header": false}), "`header: [id, name]`"),
        (json!({"path": "a.csv", "header": []}), "at least one name"),
        (
            json!({"path": "a.csv", "types": {"c": "integer"}}),
            "no column 'c' in a.csv: the columns are a, b",
        ),
        (json!({"path": "a.csv", "types": "guess"}), "expected `auto` or a map"),
        (json!({"path": "a.csv", "types": {"a": "int"}}), "unknown variant `int`"),
        (json!({"path": "a.csv", "delimeter": ";"}), "unknown field `delimeter`"),
        (json!({"path": "a.csv", "follow": true, "compression": "gzip"}), "cannot be followed"),
    ] {
        let error = refusal(given.clone()).unwrap_err();
        assert!(error.contains(expected), "{given}: {error}");
    }
    let none = FileSource::new(CsvSettings::at("a.csv"), folder.path(), 0);
    assert!(matches!(none, Err(SourceError::Settings { .. })));
}

#[test]
fn a_dead_letter_is_read_again() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("a.csv"), "a,b\n1,2\n").unwrap();
    let given = json!({"path": "a.csv", "types": {"b": "integer"}});
    let source = source(folder.path(), "csv", given);
    assert_eq!(row_json(&source.parse("a.csv", "x,\"5\"").unwrap(), 0), r#"{"a":"x","b":5}"#);
    for (raw, expected) in [
        ("x,y", "'y' is not an integer"),
        ("", "no record"),
        ("1,2\n3,4", "more than one record"),
        ("1,2 … [abridged]", "only the beginning"),
    ] {
        let error = source.parse("a.csv", raw).unwrap_err().to_string();
        assert!(error.contains(expected), "{raw}: {error}");
    }
}

#[test]
fn a_header_can_be_given() {
    let folder = tempdir().unwrap();
    fs::write(folder.path().join("a.tsv"), "\u{feff}1\t\"x\n2\ty\"\n").unwrap();
    let given = json!({"path": "a.tsv", "delimiter": "\t", "quote": "", "header": ["id", "name"]});
    assert_eq!(
        rows(&source(folder.path(), "csv", given)),
        [r#"{"id":"1","name":"\"x"}"#, r#"{"id":"2","name":"y\""}"#]
    );
}
