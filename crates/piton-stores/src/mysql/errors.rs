//! What an error of MySQL or MariaDB means for a store.

use std::io::{self, ErrorKind};

use mysql::{DriverError, Error, MySqlError};

use crate::sql::Setback;

/// What an error on a connection means.
pub(super) fn of(error: &Error) -> Setback {
    match error {
        Error::MySqlError(said) => of_server(said),
        Error::TlsError(_) => Setback::Refused(format!("TLS failed: {error}")),
        Error::DriverError(said) => of_driver(said),
        Error::IoError(said) => of_network(said),
        Error::CodecError(_) => Setback::Lost(error.to_string()),
        _ => Setback::Unusable(error.to_string()),
    }
}

fn of_network(said: &io::Error) -> Setback {
    let of_tls = said.get_ref().and_then(|inner| inner.downcast_ref());
    match said.kind() {
        _ if matches!(of_tls, Some(rustls::Error::InvalidCertificate(_))) => {
            Setback::Refused(said.to_string())
        }
        ErrorKind::TimedOut | ErrorKind::WouldBlock => {
            Setback::Lost("the server did not answer in time".to_owned())
        }
        _ => Setback::Lost(said.to_string()),
    }
}

fn of_driver(said: &DriverError) -> Setback {
    match said {
        DriverError::TlsNotSupported
        | DriverError::UnknownAuthPlugin(_)
        | DriverError::OldMysqlPasswordDisabled
        | DriverError::CleartextPluginDisabled
        | DriverError::SetupError => Setback::Refused(said.to_string()),
        _ => Setback::Lost(said.to_string()),
    }
}

/// Errors by the numbers that MySQL's manual and MariaDB's have for them.
fn of_server(said: &MySqlError) -> Setback {
    let what = said.message.clone();
    match said.code {
        // Deadlock.
        1213 => Setback::TakenBack(what),
        // A key is there already.
        1062 => Setback::Clash(what),
        // Waited for a lock, of a row or a table, or was interrupted.
        1205 | 1317 | 3024 | 3572 => Setback::Busy(what),
        // Too many connections, the server ends, the session was ended.
        1040 | 1053 | 1077 | 1152 | 1158..=1161 | 1203 | 1226 | 1927 | 4031 => Setback::Lost(what),
        // Names are what people make long.
        1265 | 1406 => Setback::Refused(format!(
            "{what}: in MySQL the name of a pipeline, or of a job with its parameters, and that of a \
             sink have at most 120 characters, and the path of a step 250"
        )),
        // Of a character that is not known, a key too long, a number too large.
        1071 | 1264 | 1366 | 3140 | 3141 | 3156 | 3669 => Setback::Refused(what),
        _ => advice(said.code, what),
    }
}

/// What a person can do about it.
fn advice(code: u16, what: String) -> Setback {
    let todo = match code {
        1045 | 1698 => "look at the user and password in the address, or set MYSQL_PWD",
        1044 | 1142 | 1143 | 1227 | 1370 => {
            "an administrator can grant it: a store needs all privileges on its database"
        }
        1049 => "create the database, or name another in the address; without one it is `piton`",
        1419 => {
            "with a binary log, triggers need the server's log_bin_trust_function_creators = 1, or \
             a user who may do everything to make the store once"
        }
        1290 | 1792 | 1836 => "the server only reads: name the primary, not a replica",
        1146 | 1305 | 1054 => "the database of the store is not as it was made",
        1153 => "raise the server's max_allowed_packet",
        1665 => "the server's binlog_format has to be ROW",
        _ => return Setback::Unusable(what),
    };
    Setback::Refused(format!("{what} ({todo})"))
}
