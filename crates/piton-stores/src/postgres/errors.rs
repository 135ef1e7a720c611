//! What an error of PostgreSQL means for a store.

use std::{error::Error as StdError, io};

use tokio_postgres::{
    Error,
    error::{DbError, Severity, SqlState},
};

use super::attempt::tls_error;
use crate::sql::Setback;

/// What an error on a connection means. `is_open`: whether the connection outlived it.
pub(super) fn of(error: &Error, is_open: bool) -> Setback {
    match error.as_db_error() {
        Some(said) => of_server(said, is_open),
        None => of_client(error, is_open),
    }
}

fn of_client(error: &Error, is_open: bool) -> Setback {
    let what = told(error);
    if what.contains("password missing") {
        return Setback::Refused(advice(&SqlState::INVALID_PASSWORD, what));
    }
    if matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_))) {
        return Setback::Refused(what);
    }
    let is_network = error.is_closed() || causes(error).any(<dyn StdError>::is::<io::Error>);
    if is_open && !is_network { Setback::Unusable(what) } else { Setback::Lost(what) }
}

/// What an error comes from, and that.
pub(super) fn causes(error: &Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

fn of_server(said: &DbError, is_open: bool) -> Setback {
    let what = words(said);
    let is_last = matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic));
    match said.code() {
        code if is_for_good(code) => Setback::Refused(advice(code, what)),
        // It ends the connection, whatever it did before.
        _ if is_last || !is_open => Setback::Lost(what),
        &SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED => {
            Setback::TakenBack(what)
        }
        &SqlState::UNIQUE_VIOLATION => Setback::Clash(what),
        &SqlState::LOCK_NOT_AVAILABLE | &SqlState::QUERY_CANCELED => Setback::Busy(what),
        // A name is longer than an index takes, a number larger than a column.
        &SqlState::PROGRAM_LIMIT_EXCEEDED
        | &SqlState::NUMERIC_VALUE_OUT_OF_RANGE
        | &SqlState::CHARACTER_NOT_IN_REPERTOIRE
        | &SqlState::UNTRANSLATABLE_CHARACTER => Setback::Refused(what),
        code => Setback::Unusable(advice(code, what)),
    }
}

/// Whether trying again cannot help until a person has done something.
fn is_for_good(code: &SqlState) -> bool {
    [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::READ_ONLY_SQL_TRANSACTION,
    ]
    .contains(code)
}

/// What a person can do about it.
fn advice(code: &SqlState, what: String) -> String {
    let todo = match *code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "look at the user and password in the address, or set PGPASSWORD"
        }
        SqlState::INVALID_CATALOG_NAME => "create the database, or name another in the address",
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "an administrator can grant it: a store needs CREATE on its database once, or an empty \
             schema `piton` of its user's own"
        }
        SqlState::READ_ONLY_SQL_TRANSACTION => {
            "the server only reads: name the primary, not a replica"
        }
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_FUNCTION | SqlState::UNDEFINED_COLUMN => {
            "the schema `piton` is not as it was made"
        }
        _ => return what,
    };
    format!("{what} ({todo})")
}

/// What the server said.
fn words(said: &DbError) -> String {
    let mut what = said.message().to_owned();
    for more in [said.detail(), said.hint()].into_iter().flatten() {
        what.push_str("; ");
        what.push_str(more);
    }
    what
}

/// An error with its causes: by itself it says little.
pub(super) fn told(error: &Error) -> String {
    let mut what = error.to_string();
    for more in causes(error).map(ToString::to_string) {
        if !what.ends_with(&more) {
            what.push_str(": ");
            what.push_str(&more);
        }
    }
    what
}
