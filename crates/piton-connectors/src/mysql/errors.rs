//! What MySQL and MariaDB report, in terms of what a person or the engine can do about it. Errors
//! are known by the numbers that the manuals of both have for them.

use mysql::{Error, MySqlError};
use piton_stores::joined::mysql::LedgerError;

use super::connect::Refusal;
use crate::sink::SinkError;

/// What an error says.
pub(crate) fn described(error: &Error) -> String {
    match error {
        Error::MySqlError(said) => said.message.clone(),
        Error::IoError(said)
            if matches!(
                said.kind(),
                std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock
            ) =>
        {
            "the server did not answer in time".into()
        }
        Error::IoError(said) => said.to_string(),
        Error::DriverError(said) => said.to_string(),
        error => error.to_string(),
    }
}

fn said(error: &Error) -> Option<&MySqlError> {
    match error {
        Error::MySqlError(said) => Some(said),
        _ => None,
    }
}

/// Whether the server says this.
pub(crate) fn says(error: &Error, code: u16) -> bool {
    said(error).is_some_and(|said| said.code == code)
}

/// Somebody else kept a lock for too long.
pub(crate) const LOCK_WAIT: u16 = 1205;

/// Whether the connection is gone: the server ends it, it was cut, or nothing could be sent. What
/// was under way may or may not have been done.
pub(crate) fn is_lost(error: &Error) -> bool {
    match said(error) {
        // The server ends, packets were cut, the session was ended or silent for too long.
        Some(said) => matches!(said.code, 1053 | 1077 | 1152 | 1158..=1161 | 1927 | 4031),
        None => true,
    }
}

/// Whether a row is the cause: its value, a constraint that it breaks, a trigger that refuses it.
pub(super) fn is_of_a_row(error: &Error) -> bool {
    let Some(said) = said(error) else { return false };
    // By SQLSTATE: the value; a constraint; a trigger's word. And those that have no state of
    // their own: a value that does not fit, no default, no partition, a condition, a row's size.
    matches!(said.state.get(..2), Some("22" | "23" | "45"))
        || matches!(
            said.code,
            1118 | 1264 | 1265 | 1292 | 1364 | 1366 | 1367 | 1411 | 1416 | 1526 | 1690 | 1748 | 3140
                ..=3158 | 3819 | 4025
        )
}

/// Whether a value is not of the column's type at all.
pub(super) fn is_of_a_type(error: &Error) -> bool {
    // Not the text of a number or of a time, or not JSON; MariaDB has a condition for that.
    [1292, 1366, 3140].iter().any(|code| says(error, *code))
}

/// Whether the same may succeed when it is done again.
fn is_passing(said: &MySqlError) -> bool {
    // Too many connections or questions; a deadlock; somebody's lock; interrupted; a table that
    // was just altered; rolled back by a cluster.
    matches!(said.code, 1040 | 1203 | 1205 | 1213 | 1226 | 1317 | 1412 | 3024 | 3101 | 3572)
}

/// Whether a server that is there says that the same may succeed later.
pub(crate) fn is_passing_error(error: &Error) -> bool {
    said(error).is_some_and(is_passing)
}

/// Why something with the database failed. `doing` completes "cannot".
pub(crate) fn failure(at: &str, doing: &str, error: &Error) -> SinkError {
    let what = described(error);
    let Some(said) = said(error).filter(|said| !is_lost(error) && !is_passing(said)) else {
        return SinkError::Unavailable { what: format!("cannot {doing} in {at}: {what}") };
    };
    match said.code {
        1044 | 1142 | 1143 | 1227 | 1370 => SinkError::Settings {
            what: format!("cannot {doing} in {at}: {what}. Grant the user of the URL that right"),
        },
        1665 => SinkError::Settings {
            what: format!("cannot {doing} in {at}: {what}. Set binlog_format to ROW"),
        },
        1290 | 1792 | 1836 => SinkError::Refused {
            what: format!("cannot {doing} in {at}: {what}. Name the server that can be written"),
        },
        3 | 1021 | 1114 => SinkError::Failed {
            what: format!(
                "cannot {doing}: no room on the disk of {at}. Nothing advanced; run the same \
                 command again when there is room"
            ),
        },
        _ => SinkError::Failed {
            what: format!(
                "cannot {doing} in {at}: {what}. Nothing advanced; when that is mended, run the \
                 same command again"
            ),
        },
    }
}

/// Why the checkpoints of a pipeline could not be used. `doing` completes "cannot".
pub(crate) fn of_ledger(at: &str, pipeline: &str, doing: &str, error: LedgerError) -> SinkError {
    let what = match error {
        LedgerError::Database(error) => return failure(at, doing, &error),
        LedgerError::Fenced { epoch } => return SinkError::Fenced { epoch, at: at.to_owned() },
        LedgerError::Damaged { what } => format!(
            "the checkpoints of pipeline '{pipeline}' in {at} are damaged: {what}. Nothing was \
             written. Restore the database from a backup; or, to begin anew, `{}` and \
             `piton reset {pipeline}`",
            LedgerError::removal(pipeline)
        ),
        LedgerError::Newer { found, known } => format!(
            "the checkpoints in {at} have format {found}, this program knows up to {known}: use a \
             newer piton"
        ),
        LedgerError::Altered => format!(
            "the checkpoints of pipeline '{pipeline}' in {at} were changed or removed by another \
             hand while it ran. Nothing was written; run it again to see where it stands"
        ),
        other => format!("{at}, pipeline '{pipeline}': {other}"),
    };
    SinkError::Refused { what }
}

/// What a failed `COMMIT` means. After a deadlock, and where a cluster says that it rolled back,
/// it was not done; whatever else is said, or if nothing is, nobody knows.
pub(crate) fn commit_failure(at: &str, error: &Error) -> SinkError {
    if says(error, 1213) || says(error, 3101) {
        return failure(at, "commit", error);
    }
    SinkError::InDoubt { at: at.to_owned(), what: described(error), lost: true }
}

impl From<Refusal> for SinkError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Settings(what) => Self::Settings { what },
            Refusal::Away(what) => Self::Unavailable { what },
        }
    }
}
