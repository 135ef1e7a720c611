//! What `plan` promises of a job, and by which names a job is found.

use crate::folder::Folder;

const JOB: &str = "job: crm
parallel: 2
steps:
  - step: rows
    source: {csv: {path: in.csv}, rate: 100/s}
    sinks: {db: {sqlite: {path: out.db, table: t, key: [id]}}}
    checkpoint: {records: 20}
    on_recover: {sql: {url: 'sqlite:out.db', statement: 'SELECT ${step.attempt}'}}
  - {step: beside, run: [sh, -c, 'sleep 0.1; exit 0']}
  - {step: last, after: [rows, beside], run: [sh, -c, 'exit 0']}
";

#[test]
fn a_plan_of_a_job_changes_nothing_and_says_where_it_resumes() {
    let folder = Folder::new(300);
    folder.write("job.yaml", JOB);
    let plan = folder.json(&["plan", "job.yaml", "--json"]);
    assert_eq!(folder.names(), ["in.csv", "job.yaml"], "nothing was created");
    assert!(plan["store"].is_null() && plan["refusal"].is_null(), "{plan}");
    assert_eq!(plan["steps"][0]["next"], "begun");
    assert_eq!(plan["steps"][0]["guarantees"][0]["guarantee"], "exactly once");
    assert_eq!(plan["steps"][0]["beside"], serde_json::json!(["beside"]));
    assert_eq!(plan["steps"][2]["after"], serde_json::json!(["rows", "beside"]));
    assert_eq!(plan["steps"][1]["guarantees"][0]["guarantee"], "at least once");

    let mut running = folder.program().start(&["run", "job.yaml"]).unwrap();
    // What took some milliseconds is stored with what is stored next.
    let is_under_way = || {
        let status = folder.program().run(&["status", "crm", "--json"]).unwrap().stdout;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        status["steps"][1]["state"] == "done" && status["steps"][0]["records"].as_u64() > Some(0)
    };
    running.until("some rows", piton_testkit::program::PATIENCE, |_| is_under_way()).unwrap();
    let held = folder.ends_with(4, &["plan", "job.yaml", "--json"]).stdout;
    assert!(held.contains("is already running"), "{held}");
    running.kill().unwrap();

    let rows = folder.rows("t");
    let stored = || -> String {
        let all = "SELECT group_concat(partition || version || epoch || position) FROM checkpoints";
        folder.sql("piton.db").query_row(all, [], |row| row.get(0)).unwrap()
    };
    let before = stored();
    let plan = folder.json(&["plan", "job.yaml", "--json"]);
    let (step, beside) = (&plan["steps"][0], &plan["steps"][1]);
    assert_eq!((&step["next"], &step["attempt"]), (&"resumed".into(), &2.into()), "{plan}");
    assert_eq!(step["resumes_after"], rows, "{plan}");
    assert_eq!(step["recovers"]["guarantee"]["guarantee"], "exactly once");
    assert_eq!((&beside["next"], &beside["order"]), (&"skipped".into(), &serde_json::Value::Null));
    assert_eq!(step["beside"], serde_json::json!([]), "what is done runs beside nothing");
    assert_eq!(stored(), before);
    assert_eq!(folder.rows("t"), rows);

    folder
        .write("job.yaml", &JOB.replace("exit 0']}\n  - {step: last", "true']}\n  - {step: last"));
    let refused = folder.ends_with(3, &["plan", "job.yaml", "--json"]).stdout;
    let refused: serde_json::Value = serde_json::from_str(&refused).unwrap();
    assert!(refused["changes"][0].as_str().unwrap().starts_with("step beside: run "), "{refused}");
    folder.ends_with(3, &["run", "job.yaml"]);

    folder.write("job.yaml", JOB);
    folder.ends_with(0, &["run", "job.yaml"]);
    assert_eq!(folder.rows("t"), 300);
    let done = folder.json(&["plan", "job.yaml", "--json"]);
    assert_eq!(done["is_finished"], true);
    let all = folder.json(&["status", "--json"]);
    assert_eq!(
        all["pipelines"].as_array().unwrap().len(),
        1,
        "its pipelines are in its tree: {all}"
    );
    assert_eq!(all["pipelines"][0]["steps"], serde_json::json!({ "done": 3, "all": 3 }));
    // Done steps are not saved again, and what is over cannot lag.
    folder.ends_with(0, &["status", "--check", "--max-lag", "1ms"]);
}

#[test]
fn a_job_with_parameters_is_found_by_its_name_while_there_is_one_choice_of_them() {
    let folder = Folder::new(0);
    folder.write(
        "job.yaml",
        "job: crm\nparams: {day: {type: date}}\nsteps:\n  - {step: a, run: [sh, -c, 'exit 0']}\n",
    );
    let run = |day: &str| {
        folder.ends_with(0, &["run", "job.yaml", "--param", &format!("day={day}")]);
    };
    let missing = folder.ends_with(2, &["plan", "job.yaml"]);
    assert!(missing.stderr.contains("--param day="), "{missing}");
    let plan = folder.json(&["plan", "job.yaml", "--param", "day=2026-11-20", "--json"]);
    assert_eq!(plan["job"], "crm(day=2026-11-20)");
    run("2026-11-20");
    for name in ["crm", "job.yaml"] {
        for command in ["pause", "resume", "history"] {
            let told = folder.json(&[command, name, "--json"]);
            assert_eq!(told["pipeline"], "crm(day=2026-11-20)");
        }
        let told = folder.json(&["mark-done", name, "a", "--json"]);
        assert_eq!(told["job"], "crm(day=2026-11-20)");
    }
    run("2026-11-21");
    for command in [&["pause", "crm"][..], &["mark-done", "crm", "a"], &["reset", "crm", "--yes"]] {
        let several = folder.ends_with(2, command).stderr;
        assert!(several.contains("'crm(day=2026-11-20)', 'crm(day=2026-11-21)'"), "{several}");
    }
    let listed = folder.json(&["status", "crm", "--json"]);
    assert_eq!(listed["pipelines"].as_array().unwrap().len(), 2);
    folder.ends_with(2, &["status", "cr"]);
}
