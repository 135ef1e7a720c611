//! `piton status [NAME]`

use std::{fmt::Write as _, time::Duration};

use jiff::Timestamp;
use piton::job::in_shell;
use piton_engine::{
    run::{SinkReport, SinkState},
    steer::{self, Health, PipelineView, State},
};

use super::{history::brief, job};
use crate::{
    args::Status,
    exit::{FAILED, FINISHED, Failure},
    opening,
    output::{count, first_sentence, many, note, print_json, records, show, span, table},
};

/// Shows pipelines and their checkpoints; with `--check` judges them for cron.
pub(crate) fn status(args: &Status) -> Result<u8, Failure> {
    let max_lag = args.max_lag.as_deref().map(opening::period).transpose()?;
    let now = Timestamp::now();
    let mut steps = Vec::new();
    let (store, views) = match &args.name {
        Some(name) => {
            let (store, names) = opening::all_named(name, &args.param, &args.store)?;
            let view = |name: &String| steer::look_at(&*store, name, now);
            let views = names.iter().map(view).collect::<Result<Vec<_>, _>>()?;
            if let [name] = &names[..] {
                steps = job::steps(&*store, name, now)?;
            }
            (store, views)
        }
        None => {
            let store = opening::existing(&args.store)?;
            let views = steer::look(&*store, now)?;
            (store, views)
        }
    };
    if args.json {
        let mut shown = serde_json::json!({ "store": store.location(), "pipelines": views });
        if !steps.is_empty() {
            shown["steps"] = serde_json::json!(steps);
        }
        print_json(&shown)?;
    } else if let ([view], false) = (&views[..], steps.is_empty()) {
        show(head(view) + &job::tree(&steps, now) + &set_aside(view))?;
    } else if args.name.is_some() && views.len() == 1 {
        show(views.iter().map(one).collect::<String>())?;
    } else {
        show(all(&store.location(), &views))?;
    }
    Ok(if args.check { check(&views, max_lag) } else { FINISHED })
}

fn check(views: &[PipelineView], max_lag: Option<Duration>) -> u8 {
    let mut code = FINISHED;
    for view in views {
        if let Health::Ill(what) = view.health(max_lag) {
            note!("piton: {what}");
            code = FAILED;
        }
    }
    code
}

fn all(store: &str, views: &[PipelineView]) -> String {
    if views.is_empty() {
        return format!("store: {store}\nno pipeline has begun in it yet\n");
    }
    let rows = views.iter().map(|view| {
        let newest = view.newest_seconds();
        let moved = match view.steps {
            Some(steps) => format!("{} of {}", count(steps.done), many(steps.all, "step")),
            None => count(view.records),
        };
        let at_risk = view.run.iter().flat_map(|run| &run.sinks).map(|sink| sink.at_risk).max();
        vec![
            view.pipeline.clone(),
            view.state.as_str().to_owned(),
            moved,
            newest.map_or("-".to_owned(), |age| format!("{} ago", span(age))),
            at_risk.filter(|_| view.holder.is_some()).map_or("-".to_owned(), count),
            count(view.dead_letters),
            view.error.as_deref().map(first_sentence).unwrap_or_default().to_owned(),
        ]
    });
    let error = if views.iter().any(|view| view.error.is_some()) { "last error" } else { "" };
    let head = ["pipeline", "state", "records", "checkpoint", "at risk", "set aside", error];
    format!("store: {store}\n{}", table(&head, &[2, 4, 5], rows.collect()))
}

/// What it is doing, and who does it.
fn head(view: &PipelineView) -> String {
    let name = &view.pipeline;
    let mut text = format!("{name}: {}\n", view.state.as_str());
    if let Some(orphan) = &view.orphan {
        let _ = writeln!(text, "{orphan}");
        return text;
    }
    let _ = match (&view.holder, view.state) {
        (Some(holder), _) => writeln!(text, "held by {holder}"),
        (None, State::Paused) => {
            writeln!(text, "it does not run; a new run waits for `piton resume {}`", in_shell(name))
        }
        // Of a script or a program.
        (None, State::Cancelled) if view.steps.is_some() && view.file.is_none() => {
            writeln!(text, "`piton resume {}` has it go on", in_shell(name))
        }
        (None, State::Cancelled) => writeln!(text, "a new run needs --again"),
        (None, State::Rewound) => {
            writeln!(text, "it had finished; the next run does what is to begin anew")
        }
        _ => Ok(()),
    };
    if let Some(error) = &view.error {
        let _ = writeln!(text, "last error: {error}");
    }
    text
}

fn one(view: &PipelineView) -> String {
    let mut text = head(view);
    if let (Some(waiting), Some(_)) =
        (view.run.as_ref().and_then(|r| r.waiting.as_ref()), &view.holder)
    {
        let _ = writeln!(text, "waiting: {waiting}");
    }
    let live = view.run.as_ref().filter(|_| view.holder.is_some());
    if let Some(left) = live.and_then(|run| job::left(run.share, run.left_seconds)) {
        let _ = writeln!(text, "left: {left}");
    }
    text += &checkpoints(view);
    for sink in view.run.iter().flat_map(|run| &run.sinks) {
        text += &doing(sink, view.holder.is_some());
    }
    text += &set_aside(view);
    if view.pending_orders > 0 {
        let orders = many(view.pending_orders, "order");
        let _ = writeln!(text, "{orders} to reset or rewind: the next run begins with that");
    }
    text
}

fn set_aside(view: &PipelineView) -> String {
    let number = records(view.dead_letters);
    match view.dead_letters {
        0 => String::new(),
        _ => format!(
            "set aside: {number}; see `piton dead-letters list {}`\n",
            in_shell(&view.pipeline)
        ),
    }
}

fn checkpoints(view: &PipelineView) -> String {
    if view.checkpoints.is_empty() {
        return match view.state {
            _ if view.pending_orders > 0 => "no checkpoints: they were reset\n".to_owned(),
            State::Finished => "no checkpoints: they were removed when it finished\n".to_owned(),
            _ => "no checkpoints\n".to_owned(),
        };
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
    table(&head, &[2, 3], rows.collect())
}

/// What a sink does: the interval in force and why, which is known from the first save of a run
/// on, what a crash would cost, and what it waits for.
fn doing(sink: &SinkReport, runs: bool) -> String {
    let mut text = match (sink.interval_seconds, &sink.interval_why) {
        (Some(seconds), Some(why)) => format!(" interval {} ({why})", span(seconds)),
        // Time does not decide it.
        (None, Some(why)) => format!(" interval {why}"),
        (_, None) if runs => " nothing saved yet in this run".to_owned(),
        (_, None) => String::new(),
    };
    if runs {
        let _ = write!(text, "\n  if it died now: {} to replay", records(sink.at_risk));
    }
    if let (SinkState::Behind, Some(trouble)) = (sink.state, &sink.trouble) {
        let _ = write!(text, "\n  behind: {trouble}");
    }
    if text.is_empty() { text } else { format!("sink '{}':{text}\n", sink.name) }
}
