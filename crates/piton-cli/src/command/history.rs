//! `piton history NAME`

use jiff::Timestamp;
use piton_engine::steer;

use crate::{
    args::History,
    exit::{FINISHED, Failure},
    opening,
    output::{count, print_json, span, table},
};

/// Shows a pipeline's checkpoints, runs and events over time.
pub(crate) fn history(args: &History) -> Result<u8, Failure> {
    let (store, name) = opening::named(&args.named.name, &args.named.store)?;
    let view = steer::history(&*store, &name, args.limit, Timestamp::now())?;
    if args.named.json {
        print_json(&view)?;
        return Ok(FINISHED);
    }
    println!("{name}: checkpoints, newest first");
    let rows = view.checkpoints.iter().map(|c| {
        let position = c.position.as_ref().map_or("(begun)".to_owned(), brief);
        vec![
            c.version.to_string(),
            c.sink.clone(),
            c.partition.clone(),
            count(c.records),
            format!("{:.0}", c.updated_at),
            position,
        ]
    });
    let head = ["version", "sink", "partition", "records", "at", "position"];
    print!("{}", table(&head, &[0, 3], rows.collect()));
    println!("\nruns, newest first");
    let rows = view.runs.iter().map(|run| {
        let (report, run) = (&run.report, &run.run);
        let end = run.end.map_or("running, or died", piton_core::RunEnd::as_str);
        vec![
            run.id.to_string(),
            format!("{:.0}", run.started_at),
            report.as_ref().map(|report| span(report.seconds)).unwrap_or_default(),
            count(run.records),
            end.to_owned(),
            run.error.clone().unwrap_or_default(),
        ]
    });
    print!("{}", table(&["run", "began", "lasted", "records", "end", ""], &[0, 3], rows.collect()));
    println!("\nevents, newest first");
    let rows = view.events.iter().map(|event| {
        vec![
            format!("{:.0}", event.at),
            event.what.clone(),
            event.who.clone(),
            event.detail.clone(),
        ]
    });
    print!("{}", table(&["at", "what", "who", ""], &[], rows.collect()));
    Ok(FINISHED)
}

/// A position without its fingerprint, which only machines read.
pub(crate) fn brief(position: &serde_json::Value) -> String {
    let mut position = position.clone();
    if let Some(fields) = position.as_object_mut() {
        fields.remove("fingerprint");
    }
    position.to_string()
}
