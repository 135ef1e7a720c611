//! `piton history NAME`

use jiff::Timestamp;
use piton_core::RunEnd;
use piton_engine::{
    connect,
    steer::{self, HistoryView},
};

use crate::{
    args::History,
    exit::{FINISHED, Failure},
    opening,
    output::{count, first_sentence, print_json, show, span, table},
};

/// Shows a pipeline's checkpoints, runs and events over time.
pub(crate) fn history(args: &History) -> Result<u8, Failure> {
    let (store, name) = opening::named(&args.named)?;
    let now = Timestamp::now();
    let history = steer::history(&*store, &name, args.limit, now)?;
    let present = steer::look_at(&*store, &name, now)?;
    if args.named.json {
        print_json(&history)?;
    } else {
        show(described(&history, present.holder.is_some()))?;
    }
    Ok(FINISHED)
}

fn described(history: &HistoryView, runs_now: bool) -> String {
    let mut text = format!("{}: checkpoints, newest first\n", history.pipeline);
    let rows = history.checkpoints.iter().map(|c| {
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
    text += &table(&head, &[0, 3], rows.collect());
    text += "\nruns, newest first\n";
    let rows = history.runs.iter().enumerate().map(|(index, run)| {
        let (report, run) = (&run.report, &run.run);
        let lasted = || Some(run.ended_at?.duration_since(run.started_at).as_secs_f64());
        let open = if index == 0 && runs_now { "running" } else { "crashed" };
        vec![
            run.id.to_string(),
            format!("{:.0}", run.started_at),
            report
                .as_ref()
                .map(|report| report.seconds)
                .or_else(lasted)
                .map_or(String::new(), span),
            count(run.records),
            run.end.map_or(open, RunEnd::as_str).to_owned(),
            run.error.as_deref().map(first_sentence).unwrap_or_default().to_owned(),
        ]
    });
    text += &table(&["run", "began", "lasted", "records", "end", ""], &[0, 3], rows.collect());
    if history.events.is_empty() {
        return text;
    }
    text += "\nevents, newest first\n";
    let rows = history.events.iter().map(|event| {
        vec![
            format!("{:.0}", event.at),
            event.what.clone(),
            event.who.clone(),
            event.detail.clone(),
        ]
    });
    text + &table(&["at", "what", "who", ""], &[], rows.collect())
}

/// A position without what only machines read.
pub(crate) fn brief(position: &serde_json::Value) -> String {
    connect::brief_json(position.clone())
}
