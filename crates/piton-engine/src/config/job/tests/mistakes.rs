//! Every mistake names its place and the way out.

use super::{job, load, wrong};

fn run(name: &str, more: &str) -> String {
    format!("  - {{step: {name}, run: [sh]{more}}}\n")
}

fn sql(statement: &str) -> String {
    job(&format!("  - step: a\n    sql: {{url: 'sqlite:x.db', statement: \"{statement}\"}}"))
}

fn moves(source: &str) -> String {
    job(&format!("  - step: a\n    source: {source}\n    sinks: {{o: {{stdout: }}}}"))
}

fn for_each(each: &str, child: &str) -> String {
    let source = "{csv: {path: c.csv}}";
    job(&format!(
        "  - step: a\n    for_each: {{source: {source}, as: {each}}}\n    steps: [{child}]"
    ))
}

fn with(lines: &str) -> String {
    format!("job: j\n{lines}\nsteps: [{{step: a, run: [sh]}}]")
}

/// What is said of each.
fn said(cases: &[String]) -> String {
    cases.iter().map(|case| wrong(case)).collect::<Vec<_>>().join("\n\n")
}

#[test]
fn of_the_job_itself() {
    insta::assert_snapshot!(said(&[
        "job: j".to_owned(),
        "steps: []".to_owned(),
        "job: j\nsteps: []".to_owned(),
        "job: j\nsteps: {a: b}".to_owned(),
        "job: j\npipeline: p\nsteps: [{step: a, run: [sh]}]".to_owned(),
        "job: j k\nsteps: [{step: a, run: [sh]}]".to_owned(),
        with("stepps: []"),
        with("parallel: 0"),
        with("params: {date: {type: day}}"),
        with("params: {date: {type: date, default: 2026-13-01}}"),
        with("params: {n: {type: integer, default: x}}"),
        with("params: {1n: {type: integer}}"),
        with("params: {k: {default: '${DB_PASSWORD}'}}"),
        with("params: {k: {default: '${param.x}'}}"),
        with("params: {k: {typ: text}}"),
        with("store: piton.db"),
        with("checkpoint: {every: 0s}"),
        with("claim: {lease: 1ms}"),
        with("on_complete: kep"),
        with("on_complete: {rnu: [sh]}"),
        with("on_complete: {run: [sh, '${step.attempt}']}"),
        with("on_complete: {run: [sh], sql: {url: 'sqlite:x', statement: SELECT 1}}"),
        with("on_failure: {sql: {url: 'sqlite:x', statement: 'SELECT 1'}, run: [sh]}"),
        with("on_source_change: ignore"),
        with("max_age: 6"),
        with("retry: {times: 3, pause: 10s, max_pause: 1s}"),
        with("retry: {time: 3}"),
    ]));
}

#[test]
fn of_names_order_and_bodies() {
    insta::assert_snapshot!(said(&[
        // Names, order and bodies.
        job("  - {run: [sh]}"),
        job("  - {step: a/b, run: [sh]}"),
        job("  - {step: '', run: [sh]}"),
        job(&[run("a", ""), run("b", ""), run("a", "")].concat()),
        job(&[run("load", ""), run("b", ", after: [laod]")].concat()),
        job(&[run("a", ", after: [c]"), run("b", ", after: [a]"), run("c", ", after: [b, a]")]
            .concat()),
        job(&run("a", ", after: [a]")),
        job(&run("a", ", aftr: [b]")),
        job("  - step: a"),
        job("  - {step: a, steps: []}"),
        job("  - {step: a, steps: [{step: b, steps: [{step: c}]}]}"),
        job(
            "  - {step: a, run: [sh], sql: {url: 'sqlite:x', statement: SELECT 1}, source: {csv: {path: a}}}"
        ),
        job("  - {step: a, source: {csv: {path: a}}}"),
        job("  - {step: a, sinks: {o: {stdout: }}}"),
        job(&run("a", ", concurrency: 2")),
        job(&run("a", ", on_error: stop, checkpoint: off")),
        job(&run("a", ", restart: never")),
    ]));
}

#[test]
fn of_what_moves_records() {
    insta::assert_snapshot!(said(&[
        // Pipelines.
        moves("{csv: {path: a, folow: true}}"),
        moves("{csv: {path: a, follow: true}}"),
        moves("{sql: {url: 'sqlite:x', table: t, poll: 1s}}"),
        moves("{sql: {url: 'sqlite:x', query: SELECT 1}}"),
        moves("{csv: {path: 'a-${param.dat}.csv'}}"),
        moves("{csv: {path: 'a-${prm.date}.csv'}}"),
        moves("{csv: {path: 'a-${record.x}.csv'}}"),
        moves("{csv: {path: a, null: '${param.date}'}}"),
        moves("{sql: {url: 'sqlite:x', query: \"SELECT '${param.date}'\", key: [id]}}"),
        moves("{csv: {path: a}}\n    transform: [{filter: \"d == '${param.date}'\"}]"),
        moves("{csv: {path: a}}\n    transform: [{filter: a}, {filter: 'a >'}]"),
        moves("{csv: {path: a}}\n    commit: {quorum: 2}"),
        "job: j\ncommit: {quorum: 2}\nsteps:\n  - {step: a, source: {csv: {path: a}}, sinks: {o: {stdout: }}}\n  - {step: b, source: {csv: {path: a}}, sinks: {o: {stdout: }}}".to_owned(),
        // For each.
        for_each("cust omer", "{step: b, run: [sh]}"),
        for_each("param", "{step: b, run: [sh]}"),
        for_each("customer", "{step: b, run: [sh, '${custmer.id}']}"),
        for_each("customer", "{step: b, run: [sh, '${customer.address.city}']}"),
        for_each("customer", "{step: b, for_each: {source: {csv: {path: d}}, as: customer}, steps: [{step: c, run: [sh]}]}"),
        job("  - {step: a, for_each: {source: {csv: {path: c}}, as: x}}"),
        job("  - {step: a, for_each: {source: {csv: {path: c}}}, steps: [{step: c, run: [sh]}]}"),
        job("  - {step: a, for_each: {source: {sql: {url: 'sqlite:x', query: SELECT 1}}, as: x}, steps: [{step: c, run: [sh]}]}"),
        job("  - {step: a, for_each: {source: {jsonl: {path: c, follow: true}}, as: x}, steps: [{step: c, run: [sh]}]}"),
        job("  - {step: a, run: [sh, '${customer.id}']}"),
    ]));
}

#[test]
fn of_sql_commands_and_conditions() {
    insta::assert_snapshot!(said(&[
        // SQL.
        sql("DELETE FROM t WHERE day = '${param.date}'"),
        sql("DELETE FROM \\\"t${param.date}\\\""),
        sql("DELETE FROM t -- ${param.date}"),
        sql("DELETE FROM t WHERE id = ${step.atempt}"),
        sql("DELETE FROM t WHERE id = ?"),
        sql("DELETE FROM t WHERE id = :id"),
        sql("DELETE FROM t; DELETE FROM u"),
        sql("BEGIN"),
        sql("SELECT 'x"),
        sql(" ; "),
        job("  - {step: a, sql: {url: 'sqlite:x'}}"),
        job("  - {step: a, sql: {url: 'sqlite:x', statements: []}}"),
        job("  - {step: a, sql: {url: 'sqlite:x', statement: SELECT 1, statements: [SELECT 1]}}"),
        job("  - {step: a, sql: {url: 'x.db', statement: SELECT 1}}"),
        job("  - {step: a, sql: {url: 'sqlite:${param.date}.db', statement: SELECT 1}}"),
        // Commands and conditions.
        job("  - {step: a, run: []}"),
        job("  - {step: a, run: sh}"),
        job("  - {step: a, run: ['']}"),
        job("  - {step: a, run: [no-such-program-anywhere]}"),
        job("  - {step: a, run: [./no-such-program]}"),
        job("  - {step: a, run: ['${param.date}']}"),
        job("  - {step: a, run: [sh, '${param.date']}"),
        job("  - {step: a, run: [sh, \"a\\0b\"]}"),
        job(&run("a", ", when: param.nn > 1")),
        job(&run("a", ", when: parm.n > 1")),
        job(&run("a", ", when: 'param.n >'")),
        job(&run("a", ", when: '${param.n} > 1'")),
        job(&run("a", ", when: param")),
    ]));
}

#[test]
fn a_sink_without_a_name_is_told_so_in_a_step_too() {
    let text = job("  - {step: a, source: {csv: {path: a}}, sinks: {csv: {path: b}}}");
    assert!(wrong(&text).contains("A sink has a name of your choice"), "{}", wrong(&text));
}

#[test]
fn what_is_wrong_with_one_step_hides_nothing_of_another() {
    let text = job("  - {step: a, rnu: [sh]}
  - step: b
    source: {csv: {path: a, folow: true}}
    sinks: {o: {stdout: }}
  - step: c
    after: [x]
    run: [no-such-program]
");
    let error = load(&text).unwrap_err();
    let lines: Vec<usize> = error.problems().iter().map(|problem| problem.at.line).collect();
    assert_eq!(lines, [4, 6, 9, 10]);
}

/// Two writers of one file are found where they may be at work at once, and only there.
#[test]
fn of_files_with_two_writers() {
    let copy = |name: &str, more: &str| {
        format!(
            "{{step: {name}, source: {{csv: {{path: a.csv}}}}, sinks: {{o: {{jsonl: {{path: out.jsonl}}}}}}{more}}}"
        )
    };
    let text = |parallel: u32, steps: &[String]| {
        format!("job: j\nparallel: {parallel}\nsteps: [{}]\n", steps.join(", "))
    };
    let apart = [copy("a", ""), copy("b", "")];
    let said = wrong(&text(2, &apart));
    assert!(
        said.contains("steps.b.sinks.o: writes ") && said.contains("as step 'a' does"),
        "{said}"
    );
    let group = format!("{{step: g, steps: [{}]}}", copy("b", ""));
    assert!(wrong(&text(2, &[copy("a", ""), group.clone()])).contains("steps.g/b.sinks.o"));
    load(&text(1, &apart)).unwrap();
    let between = "{step: m, after: [a], run: [sh]}".to_owned();
    load(&text(2, &[copy("a", ""), between, copy("b", ", after: [m]")])).unwrap();
    let above = format!(", steps: [{}]", copy("b", ""));
    load(&text(2, &[copy("a", &above)])).unwrap();
    let after = group.replace("step: g", "step: g, after: [a]");
    load(&text(2, &[copy("a", ""), after])).unwrap();
}
