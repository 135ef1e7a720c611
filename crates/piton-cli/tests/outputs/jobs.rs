//! What is said of jobs: planned, run, failed, resumed, named.

use crate::session::Session;

const JOB: &str = "job: crm
params: {who: {default: ann}}
steps:
  - step: tables
    sql: {url: 'sqlite:out.db', statement: CREATE TABLE log (what TEXT)}
  - step: people
    source: {csv: {path: in.csv}}
    sinks: {db: {sqlite: {path: out.db, table: person, key: [id]}}}
    steps:
      - step: tell
        run: [sh, -c, '[ -e ok ]']
        on_recover: {sql: {url: 'sqlite:out.db', statement: 'INSERT INTO log VALUES (${step.attempt})'}}
  - step: bob
    when: param.who == 'bob'
    steps:
      - {step: below, run: [sh, -c, 'exit 0']}
  - step: last
    after: [people]
    restart: manual
    run: [sh, -c, 'test -e ready']
";

fn session() -> Session {
    let session = Session::new();
    session.write("in.csv", "id,name\n1,Ann\n2,Bob\n3,Cid\n");
    session.write("job.yaml", JOB);
    session
}

#[test]
fn a_plan_of_a_job_before_and_after_it_failed() {
    let mut session = session();
    session.types("plan job.yaml");
    session.types("run job.yaml");
    session.types("plan job.yaml");
    session.note("It is mended, and the last step fails.");
    session.write("ok", "");
    session.types("run job.yaml");
    session.types("plan job.yaml");
    session.types("run job.yaml");
    session.types("mark-done crm last");
    session.types("run job.yaml");
    session.types("plan job.yaml");
    session.write("job.yaml", &JOB.replace("[ -e ok ]", "true"));
    session.types("plan job.yaml");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn a_plan_of_steps_that_run_beside_each_other() {
    let mut session = Session::new();
    session.write(
        "job.yaml",
        "job: j
parallel: 2
claim: {when_held: wait}
steps:
  - {step: last, after: [a, b], run: [sh, -c, 'exit 0']}
  - {step: a, run: [sh, -c, 'exit 0']}
  - step: b
    steps:
      - {step: b1, run: [sh, -c, 'exit 1'], restart: from_beginning, on_recover: {run: [sh, -c, 'exit 0']}}
      - {step: b2, after: [b1], source: {csv: {path: no.csv}}, sinks: {lines: {jsonl: {path: out.jsonl}}}}
",
    );
    session.types("plan job.yaml");
    session.types("run job.yaml");
    session.quietly("pause j");
    session.types("plan job.yaml");
    session.quietly("cancel j");
    session.types("plan job.yaml");
    session.types("plan job.yaml --param day=1");
    insta::assert_snapshot!(session.seen());
}

#[test]
fn the_status_of_jobs_and_their_names() {
    let mut session = Session::new();
    session.write(
        "job.yaml",
        "job: nightly\nparams: {day: {type: date}}\nsteps:\n  - {step: one, run: [sh, -c, 'exit 0']}\n  - {step: two, run: [sh, -c, 'test $0 = 2026-11-20', '${param.day}']}\n",
    );
    session.types("plan job.yaml");
    session.quietly("run job.yaml --param day=2026-11-20");
    session.quietly("run job.yaml --param day=2026-11-20 --again");
    session.types("status nightly");
    session.types("status job.yaml");
    session.types("run job.yaml --param day=2026-11-21");
    session.types("status");
    session.types("status nightly");
    session.types("history nightly");
    session.types("cancel nightly");
    session.types("status nightly(day=2026-11-21)");
    session.types("status night");
    insta::assert_snapshot!(session.seen());
}
