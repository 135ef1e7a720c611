//! What a whole run costs while nothing comes.

use std::{thread, time::Duration};

use super::{
    super::{Promise, judge, table},
    Outbox, cpu_of, refused,
    relayed::Relay,
};
use crate::command::Failure;

const IDLE: Duration = Duration::from_secs(10);
/// Of one core.
const IDLE_SHARE: f64 = 0.01;

/// A whole run with nothing to do.
pub(super) fn run(outbox: &Outbox) -> Result<Promise, Failure> {
    let relay = Relay::prepare(outbox, "file: {jsonl: {path: outbox.out}}", "")?;
    let mut figures = Vec::new();
    for (name, trigger) in [("polling", "DISABLE"), ("woken by NOTIFY", "ENABLE")] {
        outbox.sql(&format!("ALTER TABLE outbox {trigger} TRIGGER piton_outbox_notify"))?;
        let mut piton = relay.start()?;
        thread::sleep(Duration::from_secs(6));
        outbox.sql("INSERT INTO outbox (message_id, message_type, data) VALUES ('x', 'T', '1')")?;
        thread::sleep(Duration::from_secs(9));
        let ids = [piton.id().to_string(), backend(outbox)?];
        let before = ids.each_ref().map(|id| cpu_of(id));
        thread::sleep(IDLE);
        let shares: Vec<f64> = std::iter::zip(&ids, before)
            .map(|(id, before)| (cpu_of(id).saturating_sub(before)).div_duration_f64(IDLE))
            .collect();
        let _ = piton.kill();
        let _ = piton.wait();
        figures.push((name, shares));
    }
    let percent = |share: f64| format!("{:.2}", share * 100.0);
    let rows: Vec<Vec<String>> = figures
        .iter()
        .map(|(name, s)| vec![(*name).to_owned(), percent(s[0]), percent(s[1])])
        .collect();
    table::print(&["idle", "piton % of a core", "its session in the server"], &rows);
    let most = figures.iter().map(|(_, shares)| shares[0]).fold(0.0, f64::max);
    Ok(judge("less than 1% of a core", &format!("{}%", percent(most)), most < IDLE_SHARE))
}

/// The process of the server that serves the pipeline.
fn backend(outbox: &Outbox) -> Result<String, Failure> {
    let query = "SELECT pid::text FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'piton outbox'";
    let row = outbox.client()?.query_one(query, &[]).map_err(|error| refused(&error))?;
    Ok(row.get(0))
}
