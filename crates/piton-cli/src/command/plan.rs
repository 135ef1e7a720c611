//! `piton plan FILE`

use std::fmt::Write as _;

use piton_engine::{
    Pipeline, RunError, RunOptions,
    config::{Config, Loaded},
    connect,
    job::{
        definition::Job,
        plan::{self as jobs, JobPlan, Next, Promise, Recovers, StepPlan},
    },
    plan as engine, rehearsal,
};
use piton_stores::{MemoryStore, Mode};

use super::job::params;
use crate::{
    args::Plan,
    exit::{FINISHED, Failure, USAGE},
    opening,
    output::{count, many, print_json, records, show, table},
};

/// The address of a store that ends with its run.
const IN_MEMORY: &str = "memory:";

/// Of how many steps with the same guarantee the names are told.
const MOST_NAMED: usize = 10;

/// Says what a run would do, changing nothing.
pub(crate) fn plan(args: &Plan) -> Result<u8, Failure> {
    match opening::loaded(&args.file)? {
        Loaded::Job(job) => of_job(args, &job),
        Loaded::Pipeline(config) => of_pipeline(args, &config),
    }
}

fn of_pipeline(args: &Plan, config: &Config) -> Result<u8, Failure> {
    opening::no_params(&args.param)?;
    let pipeline = connect::pipeline(config, false)?;
    let plan = match opening::store_of(config, Mode::Existing) {
        Ok(store) => engine::plan(&pipeline, Some(&*store))?,
        Err(failure) if failure.code() == USAGE => {
            opening::homeless(config)?;
            without_store(&pipeline, &config.store)?
        }
        Err(failure) => return Err(failure),
    };
    let plan = rehearsed(plan, rehearsal::rehearse(&pipeline));
    if args.json {
        print_json(&plan)?;
    } else {
        show(described(&plan))?;
    }
    Ok(plan.refusal.as_ref().map_or(FINISHED, |refusal| refusal.exit_code))
}

/// As a run would find it that creates the store: sinks may be there already.
fn without_store(pipeline: &Pipeline, address: &str) -> Result<engine::Plan, Failure> {
    let nothing = MemoryStore::new();
    let plan = engine::plan(pipeline, Some(&nothing))?;
    let store = Some(address.to_owned()).filter(|address| address == IN_MEMORY);
    let plan = engine::Plan { store, ..plan };
    let options = RunOptions::plain(opening::owner());
    Ok(rehearsed(plan, rehearsal::first_run(pipeline, &nothing, &options)))
}

/// What a run would find before it creates anything.
fn rehearsed(mut plan: engine::Plan, found: Result<(), RunError>) -> engine::Plan {
    if let (None, Err(error)) = (&plan.refusal, found) {
        let (exit_code, what) = (error.exit_code(), error.to_string());
        plan.refusal = Some(engine::Refusal { exit_code, what });
    }
    plan
}

fn store_line(store: Option<&str>) -> String {
    match store {
        Some(IN_MEMORY) => {
            "store: memory: it forgets when the run ends. The next run starts over, \
                            or is refused where output is there already\n"
                .to_owned()
        }
        Some(store) => format!("store: {store}\n"),
        None => "store: not there yet; a run creates it\n".to_owned(),
    }
}

fn described(plan: &engine::Plan) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: reads {}", plan.pipeline, engine::brief_source(&plan.source));
    for remark in &plan.remarks {
        let _ = writeln!(text, "  {remark}");
    }
    text += &store_line(plan.store.as_deref());
    for sink in &plan.sinks {
        let _ = writeln!(text, "\nsink '{}': {}", sink.sink, sink.at);
        let _ = writeln!(text, "  guarantee: {}", sink.guarantee);
        let _ = writeln!(text, "  because {}", sink.why);
        let ordered = sink.ordered.map(|kind| format!(", by a {}", kind.as_str()));
        let ordered = ordered.unwrap_or_default();
        let _ = match sink.resumes_after {
            None => writeln!(text, "  starts at the beginning{ordered}"),
            Some(number) => writeln!(text, "  resumes after {}{ordered}", records(number)),
        };
        if let Some(touched) = &sink.touches_again {
            let _ = writeln!(text, "  {touched}");
        }
    }
    for change in &plan.changes {
        let _ = writeln!(text, "\nchanged: {change}");
    }
    if let Some(waits) = &plan.waits {
        let _ = writeln!(text, "\n{waits}");
    }
    if let Some(refusal) = &plan.refusal {
        let _ = writeln!(text, "\na run would be refused: {}", refusal.what);
    }
    text
}

/// What a run of a job would do with each step.
fn of_job(args: &Plan, job: &Job) -> Result<u8, Failure> {
    let instance = job.with(&params(&args.param)?);
    let instance =
        instance.map_err(|error| Failure::usage(format!("{}: {error}", args.file.display())))?;
    let plan = match opening::store_of_job(job, Mode::Existing) {
        Ok(store) => jobs::plan(job, &instance, &*store)?,
        // A run creates it.
        Err(failure) if failure.code() == USAGE => {
            let plan = jobs::plan(job, &instance, &MemoryStore::new())?;
            JobPlan { store: Some(job.store.clone()).filter(|at| at == IN_MEMORY), ..plan }
        }
        Err(failure) => return Err(failure),
    };
    if args.json {
        print_json(&plan)?;
    } else {
        show(of_steps(&plan))?;
    }
    Ok(plan.refusal.as_ref().map_or(FINISHED, |refusal| refusal.exit_code))
}

fn of_steps(plan: &JobPlan) -> String {
    let mut text = String::new();
    let together = match plan.parallel {
        1 => "one at a time".to_owned(),
        most => format!("up to {most} at once"),
    };
    let number = many(plan.steps.len() as u64, "step");
    let _ = writeln!(text, "{}: {number}, {together}", plan.job);
    text += &store_line(plan.store.as_deref());
    if plan.is_finished {
        text += "it has finished: a run does nothing, and --again begins a new one\n";
    }
    for change in &plan.changes {
        let _ = writeln!(text, "changed: {change}");
    }
    text.push('\n');
    let head = ["step", "kind", "order", "a run", "guarantee"];
    text += &table(&head, &[2], plan.steps.iter().map(row).collect());
    for step in plan.steps.iter().filter(|step| step.order.is_some()) {
        text += &detail(step);
    }
    text += &reasons(plan);
    if let Some(waits) = &plan.waits {
        let _ = writeln!(text, "\n{waits}");
    }
    if let Some(refusal) = &plan.refusal {
        let _ = writeln!(text, "\na run would be refused: {}", refusal.what);
    }
    text
}

fn row(step: &StepPlan) -> Vec<String> {
    let name = step.step.rsplit('/').next().unwrap_or(&step.step);
    let mut promised: Vec<&str> = step.guarantees.iter().map(|of| &*of.guarantee).collect();
    promised.dedup();
    vec![
        format!("{}{name}", "  ".repeat(step.depth)),
        step.kind.replace('_', " "),
        step.order.map(|order| order.to_string()).unwrap_or_default(),
        next(step),
        promised.join(", "),
    ]
}

fn next(step: &StepPlan) -> String {
    let why = step.why.as_deref();
    match step.next {
        Next::Skipped => format!("skips it: {}", why.unwrap_or("done")),
        Next::PassedOver => match why {
            Some(why) => format!("passes it over: {why}"),
            None => "passes it over".to_owned(),
        },
        Next::Resumed => match (step.resumes_after, &step.position) {
            (Some(after), _) => format!("resumes it after {}", records(after)),
            (None, Some(position)) => format!("resumes it at {position}"),
            (None, None) => "resumes it".to_owned(),
        },
        Next::Opened => "goes on below it".to_owned(),
        Next::BegunAnew => "begins it anew".to_owned(),
        Next::Begun => "begins it".to_owned(),
        Next::Refused => "ends here: restart: manual".to_owned(),
        Next::ForEach => "begins it for each record".to_owned(),
    }
}

/// What there is to say of a step that a run works on.
fn detail(step: &StepPlan) -> String {
    let mut lines = Vec::new();
    if let Some(attempt) = step.attempt {
        let failed = step.why.as_ref().map(|why| format!("; the last one failed: {why}"));
        lines.push(format!("attempt {attempt}{}", failed.unwrap_or_default()));
    }
    if let Some(Recovers { kind, what, guarantee }) = &step.recovers {
        lines.push(format!("first on_recover: {kind} {what}: {}", guarantee.guarantee));
    }
    for promise in &step.guarantees {
        if let Some(sink) = &promise.sink {
            lines.push(format!("sink {sink}: {}", promise.guarantee));
        }
    }
    lines.extend(step.touches_again.iter().cloned());
    lines.extend(step.changes.iter().map(|change| format!("changed: {change}")));
    if !step.after.is_empty() {
        lines.push(format!("after {}", step.after.join(", ")));
    }
    if !step.beside.is_empty() {
        lines.push(format!("may run beside {}", step.beside.join(", ")));
    }
    if let Some(refusal) = &step.refusal {
        lines.push(format!("as things are now, it would be refused: {}", refusal.what));
    }
    if lines.is_empty() && step.what.is_none() {
        return String::new();
    }
    let what = match (step.kind, &step.what) {
        (_, None) => String::new(),
        ("pipeline", Some(what)) => format!(" reads {what}"),
        (_, Some(what)) => format!(" {what}"),
    };
    let mut text = format!("\nstep '{}':{what}\n", step.step);
    for line in lines {
        let _ = writeln!(text, "  {line}");
    }
    text
}

/// Why the guarantees hold, each reason once with the steps that it is one for.
fn reasons(plan: &JobPlan) -> String {
    let mut reasons: Vec<(&Promise, Vec<String>)> = Vec::new();
    let mut add = |promise, of: String| {
        let is_same = |(known, _): &&mut (&Promise, _)| {
            let Promise { guarantee, why, .. }: &Promise = promise;
            (guarantee, why) == (&known.guarantee, &known.why)
        };
        match reasons.iter_mut().find(is_same) {
            // Those of one step come one after the other.
            Some((_, known)) if known.last() == Some(&of) => {}
            Some((_, known)) => known.push(of),
            None => reasons.push((promise, vec![of])),
        }
    };
    for step in &plan.steps {
        if let Some(recovers) = &step.recovers {
            add(&recovers.guarantee, format!("on_recover of {}", step.step));
        }
        step.guarantees.iter().for_each(|promise| add(promise, step.step.clone()));
    }
    let mut text = String::new();
    for (promise, of) in reasons {
        let more = of.len().saturating_sub(MOST_NAMED);
        let more =
            if more > 0 { format!(" and {} more", count(more as u64)) } else { String::new() };
        let named = &of[..of.len().min(MOST_NAMED)];
        let (guarantee, why) = (&promise.guarantee, &promise.why);
        let _ = writeln!(text, "\n{guarantee}: {}{more}\n  because {why}", named.join(", "));
    }
    text
}
