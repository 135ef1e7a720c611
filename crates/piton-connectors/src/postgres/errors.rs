//! What PostgreSQL reports, in terms of what a person or the engine can do about it.

use piton_stores::joined::postgres::LedgerError;
use tokio_postgres::{
    Error,
    error::{Severity, SqlState},
};

use super::connect::{ConnectError, class, describe, is_lost};
use crate::sink::SinkError;

/// Whether a row is the cause: its value, a constraint that it breaks, a trigger that refuses it.
pub(super) fn is_of_a_row(error: &Error) -> bool {
    // 22: the value; 23: a constraint; 44: a view's condition; 54: too large; P0: a trigger's word.
    matches!(class(error), Some("22" | "23" | "44" | "54" | "P0"))
}

/// Whether a value is not of the column's type at all.
pub(super) fn is_of_a_type(error: &Error) -> bool {
    let code = error.code().map(SqlState::code);
    // Not the text of a value of the type; the same for times; of another type.
    matches!(code, Some("22P02" | "22007" | "42804" | "22P03"))
}

/// Whether a table is not there, or not the schema that it was in.
pub(super) fn is_of_no_table(error: &Error) -> bool {
    let codes = [&SqlState::UNDEFINED_TABLE, &SqlState::INVALID_SCHEMA_NAME];
    error.code().is_some_and(|code| codes.contains(&code))
}

/// Whether the same may succeed when it is done again.
pub(crate) fn is_passing(error: &Error) -> bool {
    let Some(code) = error.code() else { return false };
    // 40: rolled back, as for a deadlock; 55: somebody's lock; 57: cancelled, shutting down.
    let is_known = *code == SqlState::TOO_MANY_CONNECTIONS || *code == SqlState::LOCK_NOT_AVAILABLE;
    is_known || matches!(class(error), Some("40" | "57"))
}

/// Why something with the database failed. `doing` completes "cannot".
pub(crate) fn failure(at: &str, doing: &str, error: &Error) -> SinkError {
    let said = describe(error);
    if is_lost(error) || is_passing(error) {
        return SinkError::Unavailable { what: format!("cannot {doing} in {at}: {said}") };
    }
    match error.code() {
        Some(&SqlState::INSUFFICIENT_PRIVILEGE) => SinkError::Settings {
            what: format!("cannot {doing} in {at}: {said}. Grant the user of the URL that right"),
        },
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => SinkError::Refused {
            what: format!("cannot {doing} in {at}: {said}. Name the database that can be written"),
        },
        Some(&SqlState::DISK_FULL) => SinkError::Failed {
            what: format!(
                "cannot {doing}: no room on the disk of {at}. Nothing advanced; run the same \
                 command again when there is room"
            ),
        },
        _ => SinkError::Failed {
            what: format!(
                "cannot {doing} in {at}: {said}. Nothing advanced; when that is mended, run the \
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

/// What a failed `COMMIT` means. The server says so if it rolled back; where it says nothing, or
/// ends the session, nobody knows.
pub(crate) fn commit_failure(at: &str, error: &Error) -> SinkError {
    let is_answer =
        error.as_db_error().is_some_and(|said| said.parsed_severity() == Some(Severity::Error));
    if is_answer && error.code() != Some(&SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN) {
        return failure(at, "commit", error);
    }
    SinkError::InDoubt { at: at.to_owned(), what: describe(error), lost: true }
}

impl From<ConnectError> for SinkError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Unavailable { what } => Self::Unavailable { what },
            ConnectError::Url { what } | ConnectError::Refused { what } => Self::Settings { what },
        }
    }
}
