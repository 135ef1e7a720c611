//! `piton status [NAME]`

use std::time::Duration;

use jiff::Timestamp;
use piton_engine::steer::{self, Health, PipelineView};

use super::history::brief;
use crate::{
    args::Status,
    exit::{FAILED, FINISHED, Failure},
    opening,
    output::{count, print_json, span, table},
};

/// Shows pipelines and their checkpoints; with `--check` judges them for cron.
pub(crate) fn status(args: &Status) -> Result<u8, Failure> {
    let max_lag = args.max_lag.as_deref().map(opening::period).transpose()?;
    let now = Timestamp::now();
    let (store, views) = match &args.name {
        Some(name) => {
            let (store, name) = opening::named(name, &args.store)?;
            let view = steer::look_at(&*store, &name, now)?;
            (store, vec![view])
        }
        None => {
            let store = opening::existing(&args.store)?;
            let views = steer::look(&*store, now)?;
            (store, views)
        }
    };
    if args.json {
        print_json(&serde_json::json!({ "store": store.location(), "pipelines": views }))?;
    } else if args.name.is_some() {
        views.iter().for_each(show_one);
    } else {
        show_all(&store.location(), &views);
    }
    Ok(if args.check { check(&views, max_lag) } else { FINISHED })
}

fn check(views: &[PipelineView], max_lag: Option<Duration>) -> u8 {
    let mut code = FINISHED;
    for view in views {
        if let Health::Ill(what) = view.health(max_lag) {
            eprintln!("piton: {what}");
            code = FAILED;
        }
    }
    code
}

fn show_all(store: &str, views: &[PipelineView]) {
    println!("store: {store}");
    let rows = views.iter().map(|view| {
        let newest = view.checkpoints.iter().map(|c| c.age_seconds).fold(f64::INFINITY, f64::min);
        let at_risk = view.run.iter().flat_map(|run| &run.sinks).map(|sink| sink.at_risk).max();
        vec![
            view.pipeline.clone(),
            view.state.as_str().to_owned(),
            count(view.records),
            if newest.is_finite() { format!("{} ago", span(newest)) } else { "-".to_owned() },
            at_risk.filter(|_| view.holder.is_some()).map_or("-".to_owned(), count),
            count(view.dead_letters),
            view.error.clone().unwrap_or_default(),
        ]
    });
    let head = ["pipeline", "state", "records", "checkpoint", "at risk", "set aside", ""];
    print!("{}", table(&head, &[2, 4, 5], rows.collect()));
}

fn show_one(view: &PipelineView) {
    println!("{}: {}", view.pipeline, view.state.as_str());
    if let Some(holder) = &view.holder {
        println!("held by {holder}");
    }
    if let Some(error) = &view.error {
        println!("last error: {error}");
    }
    let rows = view.checkpoints.iter().map(|c| {
        vec![
            c.sink.clone(),
            c.partition.clone(),
            count(c.records),
            c.version.to_string(),
            format!("{} ago", span(c.age_seconds)),
            c.position.as_ref().map_or("(begun)".to_owned(), brief),
        ]
    });
    let head = ["sink", "partition", "records", "version", "checkpoint", "position"];
    print!("{}", table(&head, &[2, 3], rows.collect()));
    for sink in view.run.iter().flat_map(|run| &run.sinks) {
        let interval = sink.interval_seconds.map_or("at the end".to_owned(), span);
        let why = sink.interval_why.as_deref().unwrap_or("no save yet");
        println!("sink '{}': interval {interval} ({why})", sink.name);
        if view.holder.is_some() {
            println!("  if it died now, {} records would be replayed", count(sink.at_risk));
        }
        if let Some(trouble) = &sink.trouble {
            println!("  behind: {trouble}");
        }
    }
    if view.dead_letters > 0 {
        println!(
            "{} records set aside: see `piton dead-letters list {}`",
            count(view.dead_letters),
            view.pipeline
        );
    }
    if view.pending_orders > 0 {
        println!("{} orders wait for the next run", view.pending_orders);
    }
}
