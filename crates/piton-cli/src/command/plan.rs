//! `piton plan FILE`

use std::fmt::Write as _;

use piton_engine::{Pipeline, RunError, RunOptions, connect, plan as engine, rehearsal};
use piton_stores::{MemoryStore, Mode};

use crate::{
    args::Plan,
    exit::{FINISHED, Failure, USAGE},
    opening,
    output::{print_json, records, show},
};

/// The address of a store that ends with its run.
const IN_MEMORY: &str = "memory:";

/// Says what a run would do, changing nothing.
pub(crate) fn plan(args: &Plan) -> Result<u8, Failure> {
    let config = opening::config(&args.file)?;
    let pipeline = connect::pipeline(&config, false)?;
    let plan = match opening::store_of(&config, Mode::Existing) {
        Ok(store) => engine::plan(&pipeline, Some(&*store))?,
        Err(failure) if failure.code() == USAGE => {
            opening::homeless(&config)?;
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

fn described(plan: &engine::Plan) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}: reads {}", plan.pipeline, engine::brief_source(&plan.source));
    for remark in &plan.remarks {
        let _ = writeln!(text, "  {remark}");
    }
    let _ = match &plan.store {
        Some(store) if store == IN_MEMORY => writeln!(
            text,
            "store: memory: it forgets when the run ends. The next run starts over, or is refused \
             where output is there already"
        ),
        Some(store) => writeln!(text, "store: {store}"),
        None => writeln!(text, "store: not there yet; a run creates it"),
    };
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
