mod mistakes;

use std::{collections::BTreeMap, fs, num::NonZeroUsize, path::Path, time::Duration};

use piton_connectors::settings::{Bound, BoundValue};
use piton_core::interval::Policy;
use proptest::prelude::*;

use crate::{
    config::{
        ConfigError, Loaded, SinkSettings, SourceSettings, WhenHeld, load_any, load_any_str,
        load_str,
    },
    job::definition::{
        Action, Body, Database, Job, OnJobComplete, OnSourceChange, Piece, Placeholders, Reference,
        Restart, Step, StepFact, Value, difference,
    },
    transform::Transform,
};

/// Every key once.
const NIGHTLY: &str = r#"job: nightly
store: sqlite:piton.db
params:
  date: {type: date}
  region: {default: north}
  rows: {type: integer, default: 100}
parallel: 2
checkpoint: {every: 5s}
commit: required
on_error: dead_letter
claim: {lease: 10s, when_held: wait}
limits: {record: 1MiB, memory: 64MiB}
history: {keep: 7d}
max_age: 6h
on_source_change: restart
retry: {times: 3, pause: 2s, max_pause: 10s}
timeout: 2h
on_failure: {run: [sh, -c, 'mail']}
on_complete: {sql: {url: "sqlite:audit.db", statement: "INSERT INTO done VALUES (${param.date})"}}
steps:
  - step: load
    source: {csv: {path: "in-${param.date}.csv"}, rate: 10/s}
    transform:
      - filter: 'region == ${param.region}'
    sinks: {target: {sqlite: {path: out.db, table: "sales_${param.region}", key: [id]}}}
    restart: from_beginning
    checkpoint: {records: 7}
    on_recover:
      sql: {url: "sqlite:out.db", statement: "DELETE FROM sales WHERE day = ${param.date} AND id > ${step.position}"}
  - step: totals
    after: [load]
    when: param.rows > 10 && step.attempt < 4
    sql:
      url: sqlite:out.db
      statements:
        - DELETE FROM totals;
        - INSERT INTO totals SELECT '$${x}', count(*), ${param.rows} FROM sales
    retry: {times: 0}
  - step: customers
    after: [totals]
    for_each:
      source: {sql: {url: "sqlite:out.db", table: customer, key: [id]}}
      as: customer
    concurrency: 4
    steps:
      - step: invoices
        source: {sql: {url: "sqlite:crm.db", query: "SELECT * FROM invoice WHERE customer = ${customer.id}", key: [id]}}
        sinks: {files: {jsonl: {path: "invoice-${customer.id}.jsonl"}}}
      - step: tell
        run: [sh, -c, "echo $0", "--for=${customer.name}", 7]
        timeout: 30s
        restart: manual
  - step: end
    steps:
      - step: inner
        run: [sh]
"#;

fn environment(name: &str) -> Option<String> {
    let value = match name {
        "PATH" => "/usr/bin:/bin",
        "SINCE" => "${param.date}",
        "DB_PASSWORD" => "hunter2hunter2",
        "TARGET" => "postgres://me:hunter2@host/db",
        _ => return None,
    };
    Some(value.to_owned())
}

fn load(text: &str) -> Result<Job, ConfigError> {
    match load_any_str(text, Path::new("job.yaml"), Path::new("/data"), &environment)? {
        Loaded::Job(job) => Ok(*job),
        Loaded::Pipeline(_) => panic!("a pipeline: {text}"),
    }
}

fn nightly() -> Job {
    load(NIGHTLY).unwrap()
}

/// A job of these steps.
fn job(steps: &str) -> String {
    format!("job: j\nparams: {{date: {{type: date}}, n: {{type: integer}}}}\nsteps:\n{steps}")
}

fn wrong(text: &str) -> String {
    load(text).map_or_else(|e| e.to_string(), |_| format!("LOADED: {text}"))
}

fn step<'j>(job: &'j Job, path: &str) -> &'j Step {
    job.step(path).unwrap_or_else(|| panic!("no step {path}"))
}

fn param(name: &str) -> Reference {
    Reference::Param(name.to_owned())
}

fn of_customer(field: &str) -> Reference {
    Reference::Record { name: "customer".to_owned(), field: field.to_owned() }
}

/// Values for the references of the example.
fn values(reference: &Reference) -> Option<Value> {
    Some(match reference.to_string().as_str() {
        "param.date" => Value::Date("2026-11-20".parse().unwrap()),
        "param.region" => Value::Text("nor\"th".to_owned()),
        "param.rows" => Value::Integer(100),
        "step.attempt" => Value::Integer(2),
        "customer.id" => Value::Text("7' OR 1=1".to_owned()),
        "customer.name" => Value::Text("a b".to_owned()),
        _ => return None,
    })
}

#[test]
fn the_example_says_what_it_says() {
    let job = nightly();
    assert_eq!((job.name.as_str(), job.store.as_str()), ("nightly", "sqlite:/data/piton.db"));
    assert_eq!(job.parallel, NonZeroUsize::new(2).unwrap());
    assert_eq!((job.claim.lease, job.claim.when_held), (Duration::from_secs(10), WhenHeld::Wait));
    assert_eq!(
        (job.max_age, job.timeout),
        (Some(Duration::from_hours(6)), Some(Duration::from_hours(2)))
    );
    assert_eq!(job.on_source_change, OnSourceChange::Restart);
    assert!(matches!(&job.on_failure, Some(Action::Run(command)) if command.named == "sh"));
    assert!(matches!(&job.on_complete, OnJobComplete::Action(Action::Sql(_))));
    let tops: Vec<&str> = job.steps.iter().map(|step| step.name.as_str()).collect();
    assert_eq!(tops, ["load", "totals", "customers", "end"]);
    let load = step(&job, "load");
    assert_eq!(load.restart, Restart::FromBeginning);
    assert_eq!(load.retry.times, 3);
    let pauses: Vec<_> = (0..5).map(|n| load.retry.pause_after(n).map(|p| p.as_secs())).collect();
    assert_eq!(pauses, [None, Some(2), Some(4), Some(8), None]);
    assert_eq!(step(&job, "totals").retry.times, 0);
    assert_eq!(step(&job, "end").retry.times, 3, "for what is its own");
    assert_eq!(step(&job, "end/inner").retry.times, 3);
    let Body::Run(tell) = &step(&job, "customers/tell").body else { panic!() };
    assert!(tell.program.is_absolute() && tell.program.ends_with("sh"));
    let args: Vec<String> = tell.args.iter().map(|a| a.with(&values).unwrap()).collect();
    assert_eq!(args, ["-c", "echo $0", "--for=a b", "7"]);
}

#[test]
fn values_are_bound_and_never_part_of_a_statement() {
    let job = nightly();
    let Body::Sql(sql) = &step(&job, "totals").body else { panic!() };
    assert_eq!(sql.database, Database::Sqlite("/data/out.db".into()));
    let (text, bound) = sql.statements[1].render(Placeholders::Dollar);
    assert_eq!(text, "INSERT INTO totals SELECT '${x}', count(*), $1 FROM sales");
    assert_eq!(bound, [&param("rows")]);
    assert_eq!(sql.statements[0].render(Placeholders::Bare).0, "DELETE FROM totals");
    let Some(Action::Sql(recover)) = &step(&job, "load").on_recover else { panic!() };
    let (text, bound) = recover.statements[0].render(sql.database.placeholders());
    assert_eq!(text, "DELETE FROM sales WHERE day = ?1 AND id > ?2");
    assert_eq!(bound, [&param("date"), &Reference::Step(StepFact::Position)]);
    let fixed = |piece: &Piece| matches!(piece, Piece::Text(_));
    assert_eq!(recover.statements[0].pieces.iter().filter(|piece| fixed(piece)).count(), 2);
}

#[test]
fn a_step_becomes_a_pipeline_with_its_values() {
    let job = nightly();
    let Body::Pipeline(load) = &step(&job, "load").body else { panic!() };
    // A table's name is an identifier, whatever the value.
    let error = load.config("x", &values).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("cannot be part of a table's name"), "{error}");
    let north = |reference: &Reference| match reference.to_string().as_str() {
        "param.region" => Some(Value::Text("north\\".to_owned())),
        _ => values(reference),
    };
    let config = load.config("nightly(date=2026-11-20)/load", &north).unwrap();
    assert_eq!(config.pipeline, "nightly(date=2026-11-20)/load");
    assert_eq!(config.store, "sqlite:/data/piton.db");
    assert_eq!(config.source.rate.unwrap().to_string(), "10/s");
    let SourceSettings::Csv(csv) = &config.source.settings else { panic!() };
    assert_eq!(csv.path, "in-2026-11-20.csv");
    let Transform::Filter(filter) = &config.transform[0] else { panic!() };
    assert_eq!(filter.text(), r#"region == "north\\""#);
    let SinkSettings::Sqlite(sink) = &config.sinks[0].settings else { panic!() };
    assert_eq!(sink.table, r"sales_north\");
    assert_eq!(config.checkpoint, Policy::Fixed { every: None, records: Some(7) });
    let week = Duration::from_hours(7 * 24);
    assert_eq!((config.limits.record, config.keep_history), (1 << 20, week));
}

#[test]
fn what_is_read_for_a_parent_is_bound_to_it() {
    let job = nightly();
    let Body::ForEach(customers) = &step(&job, "customers").body else { panic!() };
    assert_eq!((customers.name.as_str(), customers.concurrency.get()), ("customer", 4));
    let parents = customers.source.config("n/customers", &values).unwrap();
    assert!(parents.sinks.is_empty());
    assert_eq!(
        customers.checkpoint,
        Policy::Fixed { every: Some(Duration::from_secs(5)), records: None }
    );
    let Body::Pipeline(invoices) = &step(&job, "customers/invoices").body else { panic!() };
    let evil = invoices.config("n/customers/invoices", &values).unwrap();
    let SourceSettings::Sql(sql) = &evil.source.settings else { panic!() };
    let query = sql.query.as_deref().unwrap();
    assert_eq!(query, "SELECT * FROM invoice WHERE customer = ${customer.id}");
    let at = query.find("${").unwrap()..query.len();
    let value = BoundValue::Text("7' OR 1=1".to_owned());
    assert_eq!(sql.bound, [Bound { at, value }]);
    let elsewhere = |_: &Reference| Some(Value::Text("../x".to_owned()));
    let error = invoices.config("n", &elsewhere).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("'../x' cannot be part of a file's name"), "{error}");
    let unknown = |_: &Reference| None;
    let error = invoices.config("n", &unknown).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("${customer.id}: has no value here"), "{error}");
}

#[test]
fn what_comes_from_outside_is_no_reference() {
    let text = job("  - step: a\n    run: [sh, '${SINCE}', '$${param.date}']");
    let job = load(&text).unwrap();
    let Body::Run(command) = &step(&job, "a").body else { panic!() };
    let args: Vec<String> = command.args.iter().map(|arg| arg.with(&values).unwrap()).collect();
    assert_eq!(args, ["${param.date}", "${param.date}"]);
}

#[test]
fn programs_are_found_beside_the_file_and_on_path() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (program, file) = (folder.path().join("load.sh"), folder.path().join("j.yaml"));
    fs::write(&program, "#!/bin/sh\n").unwrap();
    let loaded = |name: &str, path: &str| {
        fs::write(&file, format!("job: j\nsteps: [{{step: a, run: [{name}]}}]")).unwrap();
        load_any(&file, &|name| (name == "PATH").then(|| path.to_owned()))
    };
    let error = loaded("./load.sh", "").unwrap_err().to_string();
    assert!(error.contains("load.sh cannot be executed: chmod +x"), "{error}");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let error = loaded("load.sh", "/bin").unwrap_err().to_string();
    assert!(error.contains("The one beside this file is ./load.sh"), "{error}");
    for (name, path) in [("./load.sh", ""), ("load.sh", folder.path().to_str().unwrap())] {
        let Loaded::Job(job) = loaded(name, path).unwrap() else { panic!() };
        let Body::Run(command) = &job.steps[0].body else { panic!() };
        assert_eq!(command.program, program);
    }
}

#[test]
fn pipelines_are_pipelines_and_jobs_are_not_run_as_such() {
    let text = "pipeline: p\nsource: {csv: {path: a}}\nsinks: {o: {stdout: }}";
    let loaded = load_any_str(text, Path::new("p.yaml"), Path::new("/data"), &environment);
    assert!(matches!(loaded, Ok(Loaded::Pipeline(config)) if config.pipeline == "p"));
    let job = job("  - {step: a, run: [sh]}");
    let error = load_str(&job, Path::new("j.yaml"), Path::new("/data"), &environment).unwrap_err();
    assert!(error.to_string().contains("jobs are not built yet"), "{error}");
}

#[test]
fn secrets_are_never_shown_nor_part_of_the_definition() {
    for secret in ["${DB_PASSWORD}", "${TARGET}"] {
        for steps in [
            "  - {step: a, run: [X]}",
            "  - {step: a, run: [sh, X]}",
            "  - {step: X, run: [sh]}",
            "  - {step: a, run: [sh], after: [X]}",
            "  - {step: a, run: [sh], when: X}",
            "  - {step: a, sql: {url: X, statement: SELECT 1}}",
            "  - {step: a, sql: {url: 'sqlite:x', statement: X}}",
            "  - {step: a, source: {sql: {url: X, table: t}}, sinks: {o: {stdout: }}}",
            "  - {step: a, source: {csv: {path: X}}, sinks: {o: {http: {url: X}}}}",
            "  - {step: a, for_each: {source: {csv: {path: c}}, as: X}, steps: [{step: X}]}",
        ] {
            let text = job(&steps.replace('X', &format!("'{secret}'")));
            let shown = match load(&text) {
                Ok(job) => format!("{job:?} {:?}", job.definition),
                Err(error) => format!("{error} {error:?}"),
            };
            assert!(!shown.contains("hunter2"), "{text}\n{shown}");
        }
    }
}

#[test]
fn a_definition_says_what_and_not_how() {
    let loaded = |text: &str| load(text).unwrap().definition;
    let nightly = loaded(NIGHTLY);
    for (was, is) in [
        ("timeout: 2h", "timeout: 3h"),
        ("parallel: 2", "parallel: 3"),
        ("rate: 10/s", "rate: 20/s"),
        ("retry: {times: 0}", "retry: {times: 9}"),
        ("on_error: dead_letter", "on_error: stop"),
        ("concurrency: 4", "concurrency: 5"),
        ("{type: date}", "{\"type\": 'date'}"),
        ("table: customer, key: [id]", "key: [id], table: customer"),
    ] {
        let changed = loaded(&NIGHTLY.replace(was, is));
        assert_eq!((&changed.digest, &changed.json), (&nightly.digest, &nightly.json), "{is}");
    }
    let changed = NIGHTLY
        .replace("table: customer, key", "table: client, key")
        .replace("  - step: end\n", "  - step: finally\n")
        .replace("restart: manual", "restart: from_position")
        .replace("region: {default: north}", "region: {default: south}")
        .replace("    after: [totals]\n", "")
        .replace("DELETE FROM totals;", "DELETE FROM totals WHERE 1;");
    let changed = loaded(&changed);
    assert_ne!(changed.digest, nightly.digest);
    assert_eq!(nightly.digest.len(), 64);
    insta::assert_snapshot!(difference(&nightly.json, &changed.json).join("\n"));
    assert_eq!(difference(&nightly.json, &nightly.json), Vec::<String>::new());
    let swapped = NIGHTLY
        .replace("- step: invoices", "- step: X")
        .replace("- step: tell", "- step: invoices")
        .replace("- step: X", "- step: tell");
    assert!(difference(&nightly.json, &loaded(&swapped).json).iter().any(|line| {
        line.contains(
            "the order of the steps under customers was invoices, tell, and is now tell, invoices",
        )
    }));
}

#[test]
fn a_job_of_ten_thousand_steps_is_read() {
    let steps: String = (0..10_000)
        .map(|n| match n {
            0 => "  - {step: s0, run: [sh]}\n".to_owned(),
            n => format!("  - {{step: s{n}, after: [s{}], sql: {{url: 'sqlite:x.db', statement: INSERT INTO t VALUES ({n})}}}}\n", n - 1),
        })
        .collect();
    let job = load(&job(&steps)).unwrap();
    assert_eq!(job.steps.len(), 10_000);
}

fn with(job: &Job, given: &[(&str, &str)]) -> Result<String, String> {
    let given: BTreeMap<String, String> =
        given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    job.with(&given).map(|instance| instance.name).map_err(|error| error.to_string())
}

#[test]
fn a_run_is_named_by_its_parameters() {
    let job = nightly();
    let name = with(&job, &[("date", "2026-11-20")]).unwrap();
    assert_eq!(name, "nightly(date=2026-11-20, region=north, rows=100)");
    let same = with(&job, &[("rows", "0100"), ("date", " 2026-11-20"), ("region", "north")]);
    assert_eq!(same.as_deref(), Ok(name.as_str()));
    let odd = with(&job, &[("date", "2026-11-20"), ("region", "a/b, rows=1)")]).unwrap();
    assert_eq!(odd, r#"nightly(date=2026-11-20, region="a\u002fb, rows=1)", rows=100)"#);
    let wrong = with(&job, &[("dat", "1"), ("rows", "1.5"), ("x", "")]).unwrap_err();
    insta::assert_snapshot!(wrong);
    let none = load("job: crm\nsteps: [{step: a, run: [sh]}]").unwrap();
    assert_eq!(with(&none, &[]).as_deref(), Ok("crm"));
}

#[cfg(feature = "mysql")]
#[test]
fn a_name_that_the_store_cannot_hold_is_refused() {
    let given = [("date", "2026-11-20"), ("region", "x".repeat(60).leak())];
    assert!(with(&nightly(), &given).is_ok());
    let job = load(&NIGHTLY.replace("store: sqlite:piton.db", "store: mysql://h/d")).unwrap();
    let error = with(&job, &given).unwrap_err();
    assert!(error.contains("more than the 120 that MySQL can hold"), "{error}");
    // Also where only a step has something there, beside which the name is kept.
    let job = "job: n\nparams: {region: {type: text}}\nsteps:
  - {step: a, sql: {url: 'mysql://h/d', statement: 'DELETE FROM t'}}\n";
    let error = with(&load(job).unwrap(), &[("region", "x".repeat(110).leak())]).unwrap_err();
    assert!(error.contains("more than the 120 that MySQL can hold"), "{error}");
}

#[test]
fn a_condition_is_about_values() {
    let job = nightly();
    let when = step(&job, "totals").when.as_ref().unwrap();
    assert_eq!(when.references(), [param("rows"), Reference::Step(StepFact::Attempt)]);
    assert_eq!(when.holds(&values), Ok(true));
    let few = |reference: &Reference| match reference {
        Reference::Param(_) => Some(Value::Number("9.5".to_owned())),
        other => values(other),
    };
    assert_eq!(when.holds(&few), Ok(false));
    assert_eq!(when.holds(&|_| None), Ok(false));
    assert_eq!(of_customer("id").to_string(), "customer.id");
}

fn mutated() -> impl Strategy<Value = String> {
    let inserts = vec![
        ":",
        "{",
        "}",
        "[",
        "]",
        "\n",
        "  ",
        "'",
        "\"",
        "- ",
        "${",
        "}",
        "${param.date}",
        "$$",
        "/*",
        "--",
        ";",
        "?",
        "\u{0}",
        "é",
        "step: a",
        "after: [a]",
        "steps:",
        "99999999999999999999",
        "~",
    ];
    let edit = (any::<prop::sample::Index>(), prop::sample::select(inserts), 0_usize..12);
    prop::collection::vec(edit, 1..6).prop_map(|edits| {
        let mut text = NIGHTLY.as_bytes().to_vec();
        for (at, insert, remove) in edits {
            let at = at.index(text.len());
            let end = (at + remove).min(text.len());
            text.splice(at..end, insert.bytes());
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

proptest! {
    #[test]
    fn no_mutation_makes_it_panic(text in mutated()) {
        let loaded = load_any_str(&text, Path::new("j.yaml"), Path::new("/data"), &environment);
        if let Err(error) = loaded {
            let lines = text.lines().count() + 1;
            for problem in error.problems() {
                prop_assert!((1..=lines).contains(&problem.at.line), "{}", error);
            }
        }
    }

    #[test]
    fn no_statement_makes_it_panic(statement in "[-'\"`$/*?;:@\\[\\]#E\\\\ a{}.é]{0,40}") {
        for url in ["sqlite:x.db", "postgres://h/d", "mysql://h/d"] {
            let quoted = serde_json::Value::from(statement.as_str());
            let _ = load(&job(&format!("  - {{step: a, sql: {{url: '{url}', statement: {quoted}}}}}")));
        }
    }
}
