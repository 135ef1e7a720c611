use std::{fs, io::Write, path::PathBuf};

use proptest::prelude::*;

use super::*;
use crate::config::{Config, SinkSettings, SourceSettings, load_str};

struct Data(tempfile::TempDir);

impl Data {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn load(text: &str) -> Config {
    load_in(Path::new("/data"), text)
}

fn load_in(folder: &Path, text: &str) -> Config {
    load_str(text, Path::new("x.yaml"), folder, &|_| None)
        .unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The same with every option switched on.
fn with_options(text: &str) -> String {
    let option = |line: &str| {
        let Some((before, after)) = line.split_once("# ") else { return line.to_owned() };
        let is_key = after.split_once(':').is_some_and(|(key, _)| {
            key.trim_start_matches([' ', '-']).bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        });
        let is_option = before.trim().is_empty() && is_key;
        if is_option { format!("{before}{after}") } else { line.to_owned() }
    };
    text.lines().map(option).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_csv_file_gets_a_configuration_that_explains_itself() {
    let data = Data::new();
    data.file("flights.csv", b"year,id,note\n2013,1,a\n2013,2,\n2013,3,c\n");
    let text = init(&data.0.path().join("flights.csv")).unwrap();
    let text = text.replace(&*data.0.path().to_string_lossy(), "IN");
    insta::assert_snapshot!(text);
    load(&text);
    load(&with_options(&text));
    assert_ne!(text.len(), with_options(&text).len());
}

#[test]
fn formats_are_known_by_name_and_content() {
    let data = Data::new();
    let jsonl = b"{\"b\":1,\"a\":\"x\"}\n{\"b\":1,\"a\":\"y\"}\n{\"b\":2,\"a\":\"z\"}\n{\"b\":";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(jsonl).unwrap();
    let cases = [
        data.file("people.jsonl", jsonl),
        data.file("people.jsonl.gz", &gzip.finish().unwrap()),
        data.file("people.zst", &zstd::stream::encode_all(&jsonl[..], 1).unwrap()),
    ];
    for path in cases {
        let config = load(&init(&path).unwrap());
        assert_eq!(config.pipeline, "people");
        assert!(
            matches!(&config.source.settings, SourceSettings::Jsonl(j) if Path::new(&j.path) == path)
        );
        assert!(matches!(&config.sinks[0].settings, SinkSettings::Sqlite(s) if s.key == ["a"]));
    }
    for (name, content, delimiter) in [
        ("a.csv", "x;y\n1;2,3\n1;4\n", ';'),
        ("a.tsv.gz", "x\ty\n1\t2\n1\t4\n", '\t'),
        ("a", "x|y|z\n1|2|\n1|4|\n", '|'),
        ("a.csv", "x\n1\n1\n", ','),
    ] {
        let config = load(&init(&data.file(name, content.as_bytes())).unwrap());
        let SourceSettings::Csv(csv) = &config.source.settings else { panic!("{name}") };
        assert_eq!(csv.delimiter, delimiter, "{content}");
    }
}

#[test]
fn without_a_column_that_tells_records_apart_rows_are_appended() {
    let data = Data::new();
    for content in ["a,b\n1,2\n1,\n", "a,b\n", "a,a\n1,1\n2,2\n", ",\n1,1\n2,2\n", "a,b\n1,2\n"] {
        let text = init(&data.file("x.csv", content.as_bytes())).unwrap();
        let config = load(&text);
        let SinkSettings::Sqlite(sink) = &config.sinks[0].settings else { panic!() };
        assert_eq!(sink.mode, Some(piton_connectors::sqlite::Mode::Append), "{content}");
        load(&with_options(&text));
    }
}

#[test]
fn a_database_is_read_by_the_primary_key() {
    let data = Data::new();
    let path = data.0.path().join("crm.sqlite");
    let db = rusqlite::Connection::open(&path).unwrap();
    db.execute_batch(
        "CREATE TABLE log (line TEXT);
         CREATE TABLE line (invoice INT, no INT, PRIMARY KEY (no, invoice));
         CREATE TABLE other (id INTEGER PRIMARY KEY AUTOINCREMENT);",
    )
    .unwrap();
    let text = init(&path).unwrap();
    let config = load(&text);
    let SourceSettings::Sql(sql) = &config.source.settings else { panic!() };
    assert_eq!(sql.url, format!("sqlite:{}", path.display()));
    assert_eq!(
        (sql.table.as_deref(), &sql.key[..]),
        (Some("line"), &["no".to_owned(), "invoice".to_owned()][..])
    );
    assert!(text.contains("# there are also: log, other"), "{text}");
    assert!(matches!(&config.sinks[0].settings, SinkSettings::Sqlite(s) if s.table == "line"));
    load(&with_options(&text));
}

#[test]
fn what_will_not_do_as_it_is_is_said() {
    let data = Data::new();
    let text = init(&data.file("l.csv", b"name,n\nM\xfcller,1\nMeier,2\n")).unwrap();
    assert!(text.contains("iconv"), "{text}");
    load(&text);
    let text = init(&data.file("n.csv", b"1,2.5\n2,3\n")).unwrap();
    assert!(text.contains("looks like data"), "{text}");
    load(&with_options(&text));
}

#[test]
fn what_cannot_be_described_says_why() {
    let data = Data::new();
    let empty_database = data.0.path().join("e.db");
    rusqlite::Connection::open(&empty_database).unwrap().execute_batch("VACUUM").unwrap();
    let shown: Vec<String> = [
        data.0.path().join("none.csv"),
        data.file("empty.csv", b""),
        data.file("list.json", b"[1, 2]"),
        data.file("broken.db", b"SQLite format 3\0 and then nothing of the kind"),
        data.file("broken.csv.gz", &[0x1f, 0x8b, 0, 1, 2]),
        data.0.path().to_owned(),
    ]
    .iter()
    .map(|path| init(path).unwrap_err().to_string())
    .collect();
    let shown = shown.join("\n").replace(&*data.0.path().to_string_lossy(), "IN");
    insta::assert_snapshot!(shown);
}

proptest! {
    #[test]
    fn whatever_the_names_and_the_content_it_loads(
        name in prop_oneof!["[^/\\x00]{1,20}", "[$a{}]{1,8}"],
        columns in prop::collection::vec("[^\"\n\r]{0,8}", 1..4),
        key in prop::option::of("\\PC{1,6}"),
    ) {
        let format = Format::Csv { delimiter: b',' };
        let sample = Sample { format, columns: columns.clone(), key: key.into_iter().collect(), rows: 2, is_utf8: true };
        prop_assume!(![".", ".."].contains(&name.as_str()));
        // A file that is called as a glob is read as itself where it is there.
        let folder = Data::new();
        folder.file(&name, b"");
        let data = Path::new(&name);
        let mut text = format!("pipeline: {}\n", scalar(&stem(data)));
        source(&mut text, data, &sample);
        transforms(&mut text, &sample);
        sinks(&mut text, &stem(data), &sample);
        let config = load_in(folder.0.path(), &text);
        let SourceSettings::Csv(csv) = &config.source.settings else { panic!() };
        prop_assert_eq!(&csv.path, &name);
        let all = load_in(folder.0.path(), &with_options(&text));
        let nameless = columns.iter().all(String::is_empty);
        prop_assert_eq!(all.transform.len(), if nameless { 0 } else { 2 });
    }
}
