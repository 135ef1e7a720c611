//! What an operator is told of a job and its steps, and by which names.

use std::fs;

use serde_json::Value;

use crate::place::{Place, count};

const JOB: &str = "job: j
steps:
  - step: copy
    source: {csv: {path: in.csv}}
    sinks:
      lines: {jsonl: {path: out.jsonl}}
      rows: {sqlite: {path: out.db, table: t, mode: append}}
  - step: group
    steps:
      - {step: e, run: [sh, -c, 'echo e >> log; [ -e ok ]']}
";

fn begun(job: &str) -> Place {
    let place = Place::with(job);
    fs::write(place.path("in.csv"), "id\n1\n2\n3\n").unwrap();
    place
}

fn json(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&place.ends_with(0, args).stdout).unwrap()
}

/// Why a job failed stands wherever one looks.
#[test]
fn why_a_job_failed_is_told_everywhere() {
    let place = begun(JOB);
    place.run(1);
    let why = "step 'group/e': the command 'sh' ended with exit code 1";
    let checked = place.ends_with(1, &["status", "--check"]).stderr;
    assert!(checked.contains(&format!("'j' failed: {why}")), "{checked}");
    let status = json(&place, &["status", "j", "--json"]);
    assert_eq!(status["pipelines"][0]["error"], why);
    let steps = status["steps"].as_array().unwrap();
    assert_eq!((&steps[0]["records"], &steps[0]["attempt"]), (&3.into(), &1.into()));
    assert_eq!(steps[2]["why"], "the command 'sh' ended with exit code 1");
    assert!(place.ends_with(0, &["history", "j"]).stdout.contains(why));
    fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    let runs = json(&place, &["history", "j", "--json"])["runs"].clone();
    assert_eq!((&runs[0]["records"], &runs[0]["error"]), (&2.into(), &Value::Null));
    assert_eq!((&runs[1]["records"], &runs[1]["error"]), (&1.into(), &why.into()));
    place.run(0);
    assert_eq!(json(&place, &["history", "j", "--json"])["runs"].as_array().unwrap().len(), 2);
}

/// What is said to a step goes to the job, or says what does.
#[test]
fn a_step_is_spoken_to_by_its_job() {
    let place = begun(JOB);
    place.run(1);
    assert!(place.ends_with(0, &["history", "j/copy"]).stdout.contains("lines"));
    for step in ["copy", "group/e"] {
        let name = format!("j/{step}");
        for command in [&["reset", "--yes"][..], &["rewind", "--to", "1", "--yes"]] {
            let refused = place.ends_with(2, &[command, &[&*name][..]].concat()).stderr;
            assert!(refused.contains(&format!("`piton rewind j --to {step}`")), "{refused}");
        }
        for command in ["pause", "resume", "cancel"] {
            let refused = place.ends_with(2, &[command, &name]).stderr;
            assert!(refused.contains("step of the job 'j'"), "{refused}");
        }
    }
    for command in ["history", "status"] {
        let told = place.ends_with(2, &[command, "j/group/e"]).stderr;
        assert!(told.contains("`piton status j`"), "{told}");
        let unknown = place.ends_with(2, &[command, "j/nothing"]).stderr;
        assert!(
            unknown.contains("has no step 'nothing'. Its steps: copy, group, group/e"),
            "{unknown}"
        );
    }
}

/// Before a job begins anew, what becomes of each output is said; it can be kept.
#[test]
fn a_rewind_of_a_job_says_what_becomes_of_its_output() {
    let place = begun(JOB);
    fs::write(place.path("ok"), "").unwrap();
    place.run(0);
    let sink = place.ends_with(2, &["reset", "j", "--sink", "lines", "--yes"]).stderr;
    assert!(sink.contains("--sink lines"), "{sink}");
    let asked = place.ends_with(2, &["reset", "j"]).stderr;
    assert!(asked.contains("step 'copy', sink 'lines'") && asked.contains("cuts off"), "{asked}");
    let rows = || count(&place.database("out.db"), "SELECT count(*) FROM t");
    place.ends_with(0, &["rewind", "j", "--to", "copy", "--yes"]);
    let status = place.ends_with(0, &["status", "j"]).stdout;
    assert!(status.starts_with("j: rewound\n") && status.contains("0 of 3"), "{status}");
    place.run(0);
    assert_eq!((place.lines("out.jsonl").len(), rows()), (3, 3));
    let kept = place.ends_with(0, &["reset", "j", "--yes", "--keep"]).stderr;
    assert!(kept.contains("keeps its output"), "{kept}");
    place.run(0);
    assert_eq!((place.lines("out.jsonl").len(), rows()), (6, 6));
}

/// A cancellation is lifted by those who mean it alone.
#[test]
fn a_cancelled_job_is_not_paused_and_a_finished_one_not_cancelled() {
    let place = begun(JOB);
    place.run(1);
    place.ends_with(0, &["cancel", "j"]);
    assert!(place.ends_with(2, &["pause", "j"]).stderr.contains("--again"));
    place.ends_with(2, &["resume", "j"]);
    place.run(3);
    fs::write(place.path("ok"), "").unwrap();
    place.ends_with(0, &["run", "job.yaml", "--again"]);
    assert!(place.ends_with(2, &["cancel", "j"]).stderr.contains("has finished"));
    place.job(
        "pipeline: p\nsource: {csv: {path: in.csv}}\nsinks: {lines: {jsonl: {path: p.jsonl}}}\n",
    );
    place.run(0);
    place.ends_with(0, &["cancel", "p"]);
    assert!(place.ends_with(2, &["pause", "p"]).stderr.contains("was cancelled"));
}

/// One of several runs is chosen by parameters, and what names it is fit for a shell.
#[test]
fn a_run_is_chosen_by_its_parameters() {
    let place = Place::with(
        "job: n\nparams: {day: {type: date}, who: {default: 'a b'}}
steps: [{step: a, run: [sh, -c, '[ -e ok ]']}]\n",
    );
    for day in ["day=2026-11-20", "day=2026-11-21"] {
        place.ends_with(1, &["run", "job.yaml", "--param", day]);
    }
    for name in ["n", "job.yaml"] {
        let chosen = json(&place, &["history", name, "--param", "day=2026-11-21", "--json"]);
        assert_eq!(chosen["pipeline"], "n(day=2026-11-21, who=\"a b\")");
    }
    let by_both = ["--param", "who=a b", "--param", "day=2026-11-20"];
    place.ends_with(0, &[&["mark-done", "n", "a"][..], &by_both].concat());
    let other = place.ends_with(2, &["pause", "n", "--param", "day=2026-11-22"]).stderr;
    assert!(other.contains("n(day=2026-11-20"), "{other}");
    assert!(place.ends_with(2, &["pause", "n", "--param", "who=a b"]).stderr.contains("several"));
    let at = ["--param", "day=2026-11-21"];
    place.ends_with(0, &[&["pause", "n"][..], &at].concat());
    let status = place.ends_with(0, &[&["status", "n"][..], &at].concat()).stdout;
    assert!(status.contains("`piton resume 'n(day=2026-11-21, who=\"a b\")'`"), "{status}");
    for command in [
        &["resume", "n"][..],
        &["rewind", "n", "--to", "a", "--yes"],
        &["reset", "n", "--yes"],
        &["cancel", "n"],
    ] {
        place.ends_with(0, &[command, &at].concat());
    }
}
