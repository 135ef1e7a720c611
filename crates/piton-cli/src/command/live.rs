//! The tree of a job while it runs, drawn anew on a terminal.
//!
//! What a step came to is heard from the run. How far a pipeline is, its run tells the store about
//! once a second, where it is read: also what another machine would see.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use piton_core::Store;
use piton_engine::{
    job::{
        definition::{Body, Job, Step},
        run::Happened,
    },
    steer,
};

use super::job::left;
use crate::output::{count, first_sentence, many, records, span};

/// How often it is drawn.
const DRAW: Duration = Duration::from_millis(100);
/// How often the store is asked how far pipelines are.
const ASK: Duration = Duration::from_millis(500);
/// The most steps that are drawn; of a larger tree those that are at work or have failed.
const MOST: usize = 20;

/// A tree that is drawn.
pub(super) struct Live {
    /// Without parameters in order, as the store knows it without its number.
    instance: String,
    began: Instant,
    drawn: MultiProgress,
    rows: Mutex<Rows>,
}

struct Rows {
    rows: Vec<Row>,
    by_path: HashMap<String, usize>,
}

/// A step.
#[derive(Debug, Clone)]
struct Row {
    path: String,
    is_pipeline: bool,
    state: State,
    /// Records that it has moved.
    records: Option<u64>,
    rate: f64,
    /// How much is still to be read, as a person reads it.
    left: Option<String>,
}

#[derive(Debug, Clone)]
enum State {
    Waiting,
    Running { since: Instant, attempt: u32 },
    Done { took: Duration },
    WasDone,
    PassedOver,
    Retries { why: String },
    Failed { why: String },
}

impl Live {
    pub(super) fn of(job: &Job, instance: &str) -> Self {
        let mut rows = Vec::new();
        add(&job.steps, &mut rows);
        let by_path = rows.iter().enumerate().map(|(n, row)| (row.path.clone(), n)).collect();
        Self {
            instance: instance.to_owned(),
            began: Instant::now(),
            drawn: MultiProgress::new(),
            rows: Mutex::new(Rows { rows, by_path }),
        }
    }

    /// Writes to standard error above the tree.
    pub(super) fn above(&self, bytes: &[u8]) {
        self.drawn.suspend(|| {
            let _ = io::stderr().write_all(bytes);
        });
    }

    /// Takes in what happened to a step.
    pub(super) fn step(&self, path: &str, happened: &Happened) {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(place) = rows.by_path.get(path).copied() else { return };
        let row = &mut rows.rows[place];
        let state = match happened {
            Happened::Began { attempt, .. } => {
                State::Running { since: Instant::now(), attempt: *attempt }
            }
            Happened::Done { took, records } => {
                row.records = records.or(row.records);
                State::Done { took: *took }
            }
            Happened::WasDone => State::WasDone,
            Happened::PassedOver => State::PassedOver,
            Happened::Retries { why, .. } => State::Retries { why: why.clone() },
            Happened::Failed { why } => State::Failed { why: why.clone() },
        };
        if matches!(state, State::WasDone | State::PassedOver) {
            // Nothing is told of what is below it.
            let below = format!("{path}/");
            let below =
                rows.rows[place + 1..].iter_mut().take_while(|row| row.path.starts_with(&below));
            below.for_each(|row| row.state = state.clone());
        }
        rows.rows[place].state = state;
    }

    /// Draws until the run is done, and leaves the last picture there.
    pub(super) fn follow(&self, store: &dyn Store, done: &AtomicBool) {
        let mut bars: Vec<ProgressBar> = Vec::new();
        let (mut asked, mut drawn) = (Instant::now(), None::<Instant>);
        loop {
            let is_done = done.load(Ordering::Relaxed);
            if is_done || asked.elapsed() >= ASK {
                asked = Instant::now();
                self.ask(store);
            }
            if is_done || drawn.is_none_or(|drawn| drawn.elapsed() >= DRAW) {
                drawn = Some(Instant::now());
                self.draw(&mut bars);
            }
            if is_done {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        bars.iter().for_each(ProgressBar::abandon);
    }

    fn draw(&self, bars: &mut Vec<ProgressBar>) {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).rows.clone();
        let lines = lines(&rows, self.began.elapsed());
        while bars.len() > lines.len() {
            let last = bars.pop();
            last.iter().for_each(|bar| self.drawn.remove(bar));
        }
        while bars.len() < lines.len() {
            let bar = self.drawn.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{wide_msg}") {
                bar.set_style(style);
            }
            bars.push(bar);
        }
        for (bar, line) in bars.iter().zip(lines) {
            bar.set_message(line);
        }
    }

    /// Asks how far the pipelines are that are at work. What cannot be told now is not news.
    fn ask(&self, store: &dyn Store) {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner).rows.clone();
        let at_work = |row: &&Row| row.is_pipeline && matches!(row.state, State::Running { .. });
        let paths: Vec<String> = rows.iter().filter(at_work).map(|row| row.path.clone()).collect();
        if paths.is_empty() {
            return;
        }
        let Ok(Some(run)) = piton::job::newest(store, &self.instance) else { return };
        for path in paths {
            let pipeline = format!("{run}/{path}");
            let Ok(view) = steer::look_at(store, &pipeline, Timestamp::now()) else { continue };
            let report = view.run.filter(|_| view.holder.is_some());
            let taken = report.iter().flat_map(|report| &report.sinks);
            let taken = taken.map(|sink| sink.records + sink.at_risk).max();
            let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(row) = rows.rows.iter_mut().find(|row| row.path == path) {
                row.records = taken.or(Some(view.records));
                row.rate = report.as_ref().map_or(0.0, |report| report.rate);
                row.left = report.and_then(|report| left(report.share, report.left_seconds));
            }
        }
    }
}

fn add(steps: &[Step], rows: &mut Vec<Row>) {
    for step in steps {
        rows.push(Row {
            path: step.path.clone(),
            is_pipeline: matches!(step.body, Body::Pipeline(_)),
            state: State::Waiting,
            records: None,
            rate: 0.0,
            left: None,
        });
        add(&step.steps, rows);
    }
}

/// The tree, and below it how many steps are done.
fn lines(rows: &[Row], elapsed: Duration) -> Vec<String> {
    let shown = chosen(rows);
    let width = shown.iter().map(|row| indented(row).chars().count()).max().unwrap_or_default();
    let mut lines: Vec<String> = shown
        .iter()
        .map(|row| format!("{:<width$}  {}", indented(row), told(row)).trim_end().to_owned())
        .collect();
    let is_over =
        |row: &&Row| matches!(row.state, State::Done { .. } | State::WasDone | State::PassedOver);
    let over = rows.iter().filter(is_over).count() as u64;
    let all = many(rows.len() as u64, "step");
    lines.push(format!("{} of {all} done, {}", count(over), span(elapsed.as_secs_f64())));
    lines
}

/// All steps of a small tree; of a large one those at work or failed, and what is above them.
fn chosen(rows: &[Row]) -> Vec<&Row> {
    if rows.len() <= MOST {
        return rows.iter().collect();
    }
    let is_news = |row: &Row| {
        matches!(row.state, State::Running { .. } | State::Retries { .. } | State::Failed { .. })
    };
    rows.iter().filter(|row| is_news(row)).take(MOST).collect()
}

fn indented(row: &Row) -> String {
    let (depth, name) = match row.path.rsplit_once('/') {
        Some((above, name)) => (above.matches('/').count() + 1, name),
        None => (0, row.path.as_str()),
    };
    format!("{}{name}", "  ".repeat(depth))
}

fn told(row: &Row) -> String {
    let moved = row.records.map(records);
    let of =
        |parts: Vec<Option<String>>| parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    match &row.state {
        State::Waiting => String::new(),
        State::Running { since, attempt } => {
            let rate = (row.rate >= 0.5).then(|| format!("{}/s", count(row.rate.round() as u64)));
            let attempt = (*attempt > 1).then(|| format!("attempt {attempt}"));
            let since = Some(span(since.elapsed().as_secs_f64()));
            let left = row.left.as_ref().map(|left| format!("{left} left"));
            format!("running  {}", of(vec![moved, rate, left, since, attempt]))
        }
        State::Done { took } => {
            format!("done     {}", of(vec![moved, Some(span(took.as_secs_f64()))]))
        }
        State::WasDone => "done     before".to_owned(),
        State::PassedOver => "passed over".to_owned(),
        State::Retries { why } => format!("retries  {}", first_sentence(why)),
        State::Failed { why } => format!("failed   {}", first_sentence(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, state: State) -> Row {
        Row {
            path: path.to_owned(),
            is_pipeline: true,
            state,
            records: None,
            rate: 0.0,
            left: None,
        }
    }

    #[test]
    fn a_tree_is_drawn_with_what_each_step_came_to() {
        let took = Duration::from_secs(12);
        let mut done = row("customer", State::Done { took });
        done.records = Some(1200);
        let now = Instant::now();
        let mut running = row("customer/invoice", State::Running { since: now, attempt: 2 });
        (running.records, running.rate) = (Some(7), 3.2);
        running.left = left(Some(0.25), Some(8.0));
        let failed = row("sums", State::Failed { why: "no table. Make one".to_owned() });
        let rows = [done, running, failed, row("report", State::Waiting)];
        let drawn = lines(&rows, took);
        assert_eq!(drawn[0], "customer   done     1,200 records, 12 s");
        let running = "  invoice  running  7 records, 3/s, 75%, 8.0 s left, ";
        assert!(drawn[1].starts_with(running) && drawn[1].ends_with(", attempt 2"), "{}", drawn[1]);
        assert_eq!(
            drawn[2..],
            ["sums       failed   no table", "report", "1 of 4 steps done, 12 s"]
        );
    }

    #[test]
    fn of_a_large_tree_what_is_at_work_is_drawn() {
        let mut rows: Vec<Row> =
            (0..1000).map(|n| row(&format!("step-{n}"), State::WasDone)).collect();
        rows[777].state = State::Failed { why: "why".to_owned() };
        let drawn = lines(&rows, Duration::ZERO);
        assert_eq!(drawn, ["step-777  failed   why", "999 of 1,000 steps done, 0 ms"]);
    }
}
