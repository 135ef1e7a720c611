use proptest::prelude::*;

use super::*;

/// The example of the manual.
const FLIGHTS: &str = r#"# flights.yaml: one pipeline
pipeline: flights            # its name
store: sqlite:piton.db
source:
  csv: {path: flights.csv}
transform:
  - filter: "dep_delay > 0"
sinks:
  warehouse:
    sqlite: {path: out.db, table: flights, key: [id]}
    required: true
commit: required
checkpoint: {max_replay: 10s, max_overhead: 1%}
claim: {lease: 30s, when_held: exit}
on_error: stop
limits: {record: 16MiB, memory: 256MiB}
on_complete: keep
"#;

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "OUT" => "results.db",
        "N" => "12",
        "EMPTY" => "",
        "YAML" => "x\nsinks: {}",
        "DB_PASSWORD" => "hunter2hunter2",
        "TARGET" => "sqlite://user:hunter2@host/db",
        _ => return None,
    };
    Some(value.to_owned())
}

fn load_text(text: &str) -> Result<Config, ConfigError> {
    load_str(text, Path::new("flights.yaml"), Path::new("/data"), &environment)
}

fn wrong(text: &str) -> String {
    load_text(text).map_or_else(|e| e.to_string(), |_| format!("LOADED: {text}"))
}

/// A small file with these lines in place of, or after, the usual ones.
fn with(lines: &str) -> String {
    let usual = [
        ("pipeline", "pipeline: flights"),
        ("source", "source: {csv: {path: in.csv}}"),
        ("sinks", "sinks: {out: {jsonl: {path: out.jsonl}}}"),
    ];
    let named = |key: &str| lines.lines().any(|line| line.starts_with(&format!("{key}:")));
    let kept = usual.iter().filter(|(key, _)| !named(key)).map(|(_, line)| *line);
    kept.chain([lines]).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_example_says_what_it_says() {
    let config = load_text(FLIGHTS).unwrap();
    assert_eq!(config.pipeline, "flights");
    assert_eq!(config.store, "sqlite:/data/piton.db");
    assert_eq!(config.resolve("./flights.csv"), Path::new("/data/flights.csv"));
    assert!(
        matches!(&config.source.settings, SourceSettings::Csv(csv) if csv.path == "flights.csv")
    );
    assert!(matches!(&config.transform[..], [Transform::Filter(f)] if f.text() == "dep_delay > 0"));
    let [Sink { name, settings: SinkSettings::Sqlite(sink), required: true, .. }] =
        &config.sinks[..]
    else {
        panic!("{:?}", config.sinks)
    };
    assert_eq!(
        (name.as_str(), sink.table.as_str(), &sink.key[..]),
        ("warehouse", "flights", &["id".to_owned()][..])
    );
    assert_eq!(config.commit, Commit::Required);
    assert_eq!(config.checkpoint, Policy::default());
    assert_eq!(config.claim.lease, Duration::from_secs(30));
    assert_eq!(config.limits, Limits { record: 16 << 20, memory: 256 << 20 });
    assert_eq!(config.described.sinks["warehouse"]["sqlite"]["path"], "out.db");
}

#[test]
fn what_is_not_said_has_a_default() {
    let (short, long) = (load_text(&with("")).unwrap(), load_text(FLIGHTS).unwrap());
    assert_eq!(short.store, long.store);
    assert_eq!(short.checkpoint, long.checkpoint);
    assert_eq!((short.claim, short.limits), (long.claim, long.limits));
    assert_eq!((short.on_error, short.on_complete), (long.on_error, long.on_complete));
    assert_eq!(short.keep_history, Duration::from_hours(30 * 24));
    assert_eq!(short.source.rate, None);
}

#[test]
fn every_form_is_understood() {
    let text = with(
        "source: {jsonl: {path: a.jsonl, rate: 5000/s}}
store: 'memory:'
transform:
  - select: [a, b]
  - select: {b: a + b, a: 1}
  - rename: {b: c}
  - flatten: c
  - flatten: {field: c_d, separator: .}
sinks:
  b: {stdout: }
  a: {http: {url: 'http://x'}, required: false}
commit: {quorum: 2}
checkpoint: {every: 5s, records: 10000}
on_error: {retry: 5, then: dead_letter}
claim: {when_held: wait}",
    );
    let config = load_text(&text).unwrap();
    assert_eq!(config.source.rate.unwrap().to_string(), "5000/s");
    assert_eq!(config.sinks.iter().map(|s| &*s.name).collect::<Vec<_>>(), ["b", "a"]);
    assert!(!config.sinks[1].required);
    assert_eq!(config.commit, Commit::Quorum(2));
    let fixed = Policy::Fixed { every: Some(Duration::from_secs(5)), records: Some(10_000) };
    assert_eq!(config.checkpoint, fixed);
    assert_eq!(config.on_error, OnError { retries: 5, then: Refused::DeadLetter });
    assert_eq!(config.claim.when_held, WhenHeld::Wait);
    let kinds: Vec<_> = config.transform.iter().map(Transform::kind).collect();
    assert_eq!(kinds, ["select", "select", "rename", "flatten", "flatten"]);
    let Transform::Select(columns) = &config.transform[1] else { panic!() };
    assert_eq!(columns.iter().map(|c| &*c.name).collect::<Vec<_>>(), ["b", "a"]);
    let beside = load_text(&with("source: {csv: {path: x}, rate: 60/m}\ncheckpoint: off")).unwrap();
    assert_eq!(beside.source.rate.unwrap().to_string(), "60/m");
    assert_eq!(beside.checkpoint, Policy::Off);
}

#[test]
fn every_mistake_names_its_place_and_the_way_out() {
    let cases: &[&str] = &[
        // The example of the message style.
        "pipeline: flights
source: {csv: {path: in.csv}}

sinks:
  warehouse:
    sqlite: {path: out.db, table: x,
    tabel: y}",
        "",
        "[]",
        "pipeline: flights",
        "job: crm",
        "pipeline: [a]",
        "pipeline: ''\nsource: {csv: {path: a}}\nsinks: {' ': {stdout: {}}}",
        &with("pipeline: Flüge und mehr"),
        &with("sorce: {}"),
        &with("source: {csv: {path: a}, jsonl: {path: b}}"),
        &with("source: {}"),
        &with("source: {cvs: {path: a}}"),
        &with("source: {csv: {}}"),
        &with("source: {csv: [a]}"),
        &with("source: {csv: {path: a, delimiter: ';;'}}"),
        &with("source: {csv: {path: a, rate: 1/s}, rate: 2/s}"),
        &with("source: {csv: {path: a, rate: -5/s}}"),
        &with("sinks: {}"),
        &with("sinks: {a: {}}"),
        &with("sinks: {a: {csv: {path: a}, jsonl: {path: b}}}"),
        &with("sinks: {a: {jsonl: {path: x}}, b: {csv: {path: ./x}}}"),
        &with("sinks: {a: {csv: {path: in.csv}}}"),
        &with("sinks: {a: {stdout: {}}, a: {stdout: {}}}"),
        &with("sinks: {a: {stdout: {}, required: maybe}}"),
        &with("commit: {quorum: 2}"),
        &with("commit: {quorum: 0}"),
        &with("commit: {quorum: -1}"),
        &with("commit: {qorum: 1}"),
        &with("commit: al"),
        &with("sinks: {a: {stdout: {}, required: false}}"),
        &with("sinks: {a: {stdout: {}}, b: {stdout: {}, required: false}}\ncommit: all"),
        &with("checkpoint: {every: 0s}"),
        &with("checkpoint: {every: 5}"),
        &with("checkpoint: {every: 5s, max_replay: 1s}"),
        &with("checkpoint: {records: 0}"),
        &with("checkpoint: {max_overhead: 0%}"),
        &with("checkpoint: of"),
        &with("checkpoint: {evry: 5s}"),
        &with("claim: {lease: -1s}"),
        &with("claim: {lease: 1ms, when_held: exist}"),
        &with("claim: {lease: 1ms}"),
        &with("on_error: dead_leter"),
        &with("on_error: {retry: 0}"),
        &with("on_error: {then: stop}"),
        &with("limits: {record: 10MB, memory: 10MB}"),
        &with("limits: {record: 16 pages}"),
        &with("history: {keep: 0d}"),
        &with("on_complete: kep"),
        &with("store: redis://h/db"),
        &with("store: piton.db"),
        &with("transform: {filter: a}"),
        &with("transform:\n  - fliter: a > 1"),
        &with("transform:\n  - filter: a >"),
        &with("transform:\n  - filter: \"a > 1 &&\n      sizes(b) > 2\""),
        &with("transform:\n  - filter: |\n      a > 1 &&\n      sizes(b) > 2"),
        &with("transform:\n  - select: {x: a +, y: b and c}"),
        &with("transform:\n  - select: [a, a]"),
        &with("transform:\n  - select: []"),
        &with("transform:\n  - rename: {a: b, c: b}"),
        &with("transform:\n  - filter: a\n    select: [a]"),
        &with("limits:\n\trecord: 1MiB"),
        &with("a: b: c"),
        &with("a: 'open"),
        "pipeline: a\n---\npipeline: b",
        &with("store: sqlite:${HOME_OF_PITON}/p.db"),
        &with("store: sqlite:${OUT"),
        &with("store: sqlite:${1OUT}"),
        &with("store: sqlite:${A:-${B}}"),
        &with("store: sqlite:${file:/no/such/secret}"),
        &with("limits: {record: '${OUT}'}"),
        &with("limits: {record: '${DB_PASSWORD}'}"),
        &with("store: ${TARGET}"),
        &with("store: ${DB_PASSWORD}"),
        &with("store: sqlite:"),
        // What the connectors find.
        &with("sinks: {a: {sqlite: {path: o.db, table: t, mode: upsert}}}"),
        &with("sinks: {a: {sqlite: {path: o.db, table: piton_x, key: [id]}}}"),
        &with("sinks: {a: {csv: {path: o.csv, delimiter: é}}}"),
        &with("sinks: {a: {http: {url: 'ftp://x'}}}"),
        &with("sinks: {a: {http: {url: 'http://x', timeout: 0s}}}"),
        &with("sinks: {a: {http: {url: 'http://x', batch: 0}}}"),
        &with("source: {csv: {path: ''}}"),
        &with("source: {csv: {path: a, header: false}}"),
        &with("source: {csv: {path: a, types: {b: int}}}"),
        &with("source: {csv: {path: a, null: 5, follow: maybe}}"),
        &with("source: {sql: {url: 'oracle://x', table: t}}"),
        &with("source: {sql: {url: 'sqlite:x', table: t, query: SELECT 1}}"),
        &with("source: {jsonl: {path: a, poll: 5s}}"),
    ];
    let shown: Vec<String> = cases.iter().map(|case| wrong(case)).collect();
    insta::assert_snapshot!(shown.join("\n\n"));
}

#[test]
fn several_problems_are_named_at_once_in_order() {
    let text = "pipeline: a b
source: {csv: {path: in.csv}}
transform:
  - filter: a >
sinks:
  out: {jsonl: {path: out.jsonl}}
commit: {quorum: 3}
";
    let error = load_text(text).unwrap_err();
    let lines: Vec<usize> = error.problems().iter().map(|problem| problem.at.line).collect();
    assert_eq!(lines, [1, 4, 7]);
    assert_eq!(error.to_string().lines().count(), 3);
}

#[test]
fn values_from_outside_are_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "  s3cret\n").unwrap();
    let text = with(
        "store: sqlite:${STORE:-p.db}
source: {sql: {url: 'sqlite:${EMPTY:-crm.db}${EMPTY}', table: '$${x}$', key: [id], batch: '${N}'}}
sinks:
  w: {sqlite: {path: '${OUT}', table: 't_${N}_${record.year}'}}
  h: {http: {url: http://x, headers: {Authorization: '${file:key}'}}}
commit: {quorum: '${TWO:-2}'}",
    );
    let config = load_str(&text, Path::new("f.yaml"), folder.path(), &environment).unwrap();
    let SourceSettings::Sql(sql) = &config.source.settings else { panic!() };
    assert_eq!((&*sql.url, sql.table.as_deref()), ("sqlite:crm.db", Some("${x}$")));
    assert_eq!(sql.batch.map(std::num::NonZero::get), Some(12));
    assert_eq!(config.commit, Commit::Quorum(2));
    assert_eq!(config.store, format!("sqlite:{}", folder.path().join("p.db").display()));
    let SinkSettings::Sqlite(sink) = &config.sinks[0].settings else { panic!() };
    assert_eq!((sink.path.to_str(), &*sink.table), (Some("results.db"), "t_12_${record.year}"));
    let SinkSettings::Http(http) = &config.sinks[1].settings else { panic!() };
    assert_eq!(http.headers["Authorization"], "s3cret");
    assert_eq!(config.described.sinks["h"]["http"]["headers"]["Authorization"], "${file:key}");
}

#[test]
fn what_is_filled_in_never_adds_structure() {
    let config = load_text(&with("source: {csv: {path: '${YAML}'}}")).unwrap();
    assert!(matches!(&config.source.settings, SourceSettings::Csv(c) if c.path == "x\nsinks: {}"));
    assert_eq!(config.sinks.len(), 1);
}

#[test]
fn secrets_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "hunter2hunter2").unwrap();
    for value in ["${file:key}", "${DB_PASSWORD}", "${TARGET}", "${file:key}x", "a ${TARGET}"] {
        for lines in [
            "store: X",
            "commit: X",
            "commit: {quorum: X}",
            "checkpoint: X",
            "checkpoint: {every: X}",
            "claim: {when_held: X}",
            "limits: {memory: X}",
            "on_error: X",
            "source: X",
            "source: {csv: {path: a, delimiter: X}}",
            "source: {csv: {path: a, header: X}}",
            "source: {csv: {path: a, rate: X}}",
            "sinks: X",
            "sinks: {a: {sqlite: X}}",
            "sinks: {a: {sqlite: {path: a, table: t, key: [X, X]}}}",
            "sinks: {a: {http: {url: X}}}",
            "sinks: {a: {http: {url: 'http://x', headers: {a: X, b b: X}}}}",
            "source: {sql: {url: X, table: t, key: [id]}}",
            "transform: [{filter: X}]",
            "transform: [{filter: \"'X\"}]",
            "transform: [{select: {a: X + X +}}]",
            "transform: [{select: [X, X]}]",
            "transform: [{rename: {a: X, b: X}}]",
        ] {
            let quoted = if lines.contains("'X") { value.to_owned() } else { format!("'{value}'") };
            let text = with(&lines.replace('X', &quoted));
            let loaded = load_str(&text, Path::new("f.yaml"), folder.path(), &environment);
            let shown = match loaded {
                Ok(config) => format!("{config:?} {:?}", config.described),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        }
    }
    let address = with("sinks: {h: {http: {url: 'https://me:hunter2@h/x'}}}");
    let described = load_text(&address).unwrap().described;
    assert_eq!(described.sinks["h"]["http"]["url"], "https://me:***@h/x");
}

#[test]
fn files_are_read_with_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flights.yaml");
    std::fs::write(&path, FLIGHTS).unwrap();
    let config = load(&path, &environment).unwrap();
    assert_eq!(config.dir, folder.path());
    assert_eq!(config.store, format!("sqlite:{}/piton.db", folder.path().display()));
    let missing = load(&folder.path().join("no.yaml"), &environment).unwrap_err();
    assert!(missing.to_string().contains("no.yaml: cannot read the configuration"));
    std::fs::write(&path, b"pipeline: x\nstore: \xff").unwrap();
    let error = load(&path, &environment).unwrap_err();
    assert_eq!(error.problems()[0].at, Place { line: 2, column: 1 });
    std::fs::write(&path, vec![b'#'; 5 << 20]).unwrap();
    assert!(matches!(load(&path, &environment), Err(ConfigError::TooLarge { .. })));
}

#[test]
fn a_bomb_of_aliases_or_depth_is_refused_quickly() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let items = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb = format!("{bomb}a{level}: &a{level} [{items}]\n");
    }
    let deep = format!("a: {}", "[".repeat(100_000));
    let flat = "- x\n".repeat(100_000);
    for text in [bomb, deep, flat] {
        let error = wrong(&text);
        assert!(error.len() < 300, "{error}");
    }
}

#[test]
fn what_is_described_does_not_depend_on_how_it_is_written() {
    let described = |text: &str| load_text(text).unwrap().described;
    let unquoted = FLIGHTS.replace("\"dep_delay > 0\"", "dep_delay > 0");
    let turned = unquoted.replace("table: flights, key: [id]", "key: [id], table: flights");
    let json = |described: &Described| serde_json::to_string(&described.sinks).unwrap();
    assert_eq!(described(FLIGHTS).transform, described(&unquoted).transform);
    assert_eq!(json(&described(FLIGHTS)), json(&described(&turned)));
    let select = |columns| described(&with(&format!("transform: [{{select: {columns}}}]")));
    let (ab, ba) = (select("{a: x, b: y}").transform, select("{b: y, a: x}").transform);
    assert_ne!(ab.to_string(), ba.to_string());
}

/// Whether the schema says yes, and what the loader says.
fn judged(text: &str) -> (bool, Result<Loaded, ConfigError>) {
    let json: Json =
        serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
            .unwrap();
    let loaded = load_any_str(text, Path::new("f.yaml"), Path::new("/data"), &|name| match name {
        "PATH" => Some("/usr/bin:/bin".to_owned()),
        other => environment(other),
    });
    (jsonschema::is_valid(&schema(), &json), loaded)
}

/// A job of one step.
fn steps(step: &str) -> String {
    format!("job: j\nsteps: [{{step: a, {step}}}]")
}

#[test]
fn the_schema_says_yes_to_what_loads_and_no_to_what_is_unknown() {
    for text in [
        FLIGHTS.to_owned(),
        with(""),
        with("source: {csv: {path: a, rate: 5/s}}\ncheckpoint: off\ncommit: {quorum: 1}"),
        with("source: {jsonl: {path: a}, rate: 5/s}\non_error: {retry: 3}"),
        with("transform: [{select: [a]}, {select: {b: a + 1}}, {flatten: a}, {rename: {a: b}}]"),
        with("transform: [{flatten: {field: a, separator: '-'}}]\nlimits: {record: 65536}"),
        with("sinks: {a: {stdout: {}, required: true}, b: {http: {url: 'http://x'}}}"),
        with("on_source_change: continue\nmax_age: 6h"),
        steps("source: {csv: {path: a}}, sinks: {o: {stdout: {}}}, on_source_change: restart"),
        steps("run: [sh, -c, ls], after: [], retry: {times: 3, pause: 1s}, timeout: 5m"),
        steps("source: {csv: {path: a, rate: 5/s}}, sinks: {o: {stdout: {}}}, checkpoint: off"),
        steps("sql: {url: 'sqlite:x', statements: [SELECT 1]}, on_recover: {run: [sh]}"),
        steps(
            "for_each: {source: {csv: {path: a}}, as: x}, concurrency: 2, steps: [{step: b, run: [sh]}]",
        ),
        steps("steps: [{step: b, run: [sh]}]")
            + "\nparams: {d: {type: date, default: 2026-01-01}, n: {default: 5}}",
        steps("run: [sh]")
            + "\non_complete: {run: [sh]}\non_failure: {run: [sh]}\nmax_age: 6h\nparallel: 2",
    ] {
        let (valid, loaded) = judged(&text);
        assert!(valid && loaded.is_ok(), "{text}: {valid} {loaded:?}");
    }
    for text in [
        with("sorce: {}"),
        with("source: {csv: {path: a, colour: red}}"),
        with("on_source_change: ignore"),
        with("max_age: 6"),
        with("source: {parquet: {path: a}}"),
        with("sinks: {}"),
        with("sinks: {a: {}}"),
        with("sinks: {a: {csv: {path: a}, jsonl: {path: b}}}"),
        with("sinks: {a: {stdout: {}, rate: 5/s}}"),
        with("commit: some"),
        with("checkpoint: {every: 5}"),
        with("checkpoint: never"),
        with("on_error: {then: stop}"),
        with("transform: [{drop: a}]"),
        with("pipeline: a b"),
        with("store: redis://h/db"),
        "job: x\nsteps: []".to_owned(),
        "job: x y\nsteps: [{step: a, run: [sh]}]".to_owned(),
        steps("rnu: [sh]"),
        steps("run: []"),
        steps("run: [sh], after: a"),
        steps("sql: {url: 'sqlite:x'}"),
        steps("source: {csv: {path: a}}, sinks: {}"),
        steps("for_each: {source: {csv: {path: a}}}, steps: [{step: b, run: [sh]}]"),
        steps("run: [sh]") + "\nparams: {d: {type: day}}",
        steps("run: [sh]") + "\non_complete: kep",
    ] {
        let (valid, loaded) = judged(&text);
        assert!(!valid && loaded.is_err(), "{text}: {valid} {loaded:?}");
    }
}

#[test]
fn every_key_is_described() {
    fn undescribed(schema: &Json, path: &str, found: &mut Vec<String>) {
        let Some(object) = schema.as_object() else { return };
        for (key, value) in object {
            let path = format!("{path}/{key}");
            if key == "properties" {
                for (name, property) in value.as_object().unwrap() {
                    if property.get("description").is_none() && property.get("$ref").is_none() {
                        found.push(format!("{path}/{name}"));
                    }
                }
            }
            undescribed(value, &path, found);
        }
    }
    let mut found = Vec::new();
    undescribed(&schema(), "", &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        prop_oneof![
            prop::sample::select(vec![
                ":",
                "{",
                "}",
                "[",
                "]",
                "\t",
                "\n",
                "  ",
                "'",
                "\"",
                "&a ",
                "*a",
                "<<: ",
                "- ",
                "${",
                "}",
                "~",
                "!",
                "|",
                "-1",
                "0",
                "1e999",
                "\u{0}",
                "é",
                "99999999999999999999",
                "--- ",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..3),
        ],
        0_usize..12,
    );
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut text = FLIGHTS.as_bytes().to_vec();
        for (at, insert, remove) in edits {
            let at = at.index(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert);
        }
        text
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        let _ = load_text(&text);
    }

    #[test]
    fn no_mutation_makes_it_panic(bytes in mutated()) {
        let text = String::from_utf8_lossy(&bytes);
        match load_text(&text) {
            Ok(config) => prop_assert!(!config.sinks.is_empty()),
            Err(error) => {
                let lines = text.lines().count() + 1;
                for problem in error.problems() {
                    prop_assert!((1..=lines).contains(&problem.at.line), "{}", error);
                    prop_assert!(problem.at.column >= 1);
                }
            }
        }
    }
}

#[test]
fn keys_that_look_like_other_values_are_keys() {
    let config = load_text(&with(
        "source:\n  csv: {path: a, null: '', types: {1: integer, true: text, null: text, no: float}}",
    ));
    let SourceSettings::Csv(csv) = config.unwrap().source.settings else { panic!() };
    assert_eq!(csv.null.as_deref(), Some(""));
    let piton_connectors::file::Types::Columns(types) = csv.types else { panic!() };
    assert_eq!(types.keys().collect::<Vec<_>>(), ["1", "no", "null", "true"]);
}
