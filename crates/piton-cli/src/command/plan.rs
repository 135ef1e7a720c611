//! `piton plan FILE`

use piton_engine::{connect, plan as engine};
use piton_stores::Mode;

use crate::{
    args::Plan,
    exit::{FINISHED, Failure},
    opening,
    output::{count, print_json},
};

/// Says what a run would do, changing nothing.
pub(crate) fn plan(args: &Plan) -> Result<u8, Failure> {
    let config = opening::config(&args.file)?;
    let pipeline = connect::pipeline(&config, false)?;
    let store = match opening::store_of(&config, Mode::Existing) {
        Ok(store) => Some(store),
        Err(failure) if failure.code() == crate::exit::USAGE => None,
        Err(failure) => return Err(failure),
    };
    let plan = engine::plan(&pipeline, store.as_deref())?;
    if args.json {
        print_json(&plan)?;
    } else {
        show(&plan);
    }
    Ok(plan.refusal.as_ref().map_or(FINISHED, |refusal| refusal.exit_code))
}

fn show(plan: &engine::Plan) {
    println!("{}: reads {}", plan.pipeline, plan.source);
    match &plan.store {
        Some(store) => println!("store: {store}"),
        None => println!("store: not there yet; a run creates it"),
    }
    for sink in &plan.sinks {
        println!("\nsink '{}': {}", sink.sink, sink.at);
        println!("  guarantee: {}", sink.guarantee);
        println!("  because {}", sink.why);
        match sink.resumes_after {
            None => println!("  starts at the beginning"),
            Some(records) => println!("  resumes after {} records", count(records)),
        }
    }
    for change in &plan.changes {
        println!("\nchanged: {change}");
    }
    if let Some(refusal) = &plan.refusal {
        println!("\na run would be refused: {}", refusal.what);
    }
}
