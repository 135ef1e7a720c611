//! From a URL to a session.
//!
//! The URL is that of a store on such a server, read by the same code. A password comes from it or
//! from `MYSQL_PWD` and is shown to nobody: places are named by [`Server::location`], which has
//! none.

use std::{collections::HashMap, env, fmt, time::Duration};

use mysql::{Conn, DriverError, Error, Row, Value, prelude::Queryable as _};
use piton_stores::mysql::Address;
pub(crate) use piton_stores::mysql::run;

use super::errors::{described, is_lost};

/// Settings of every session: identifiers in double quotes, backslashes as ordinary characters,
/// wrong values refused and not bent, times of UTC, numbers as they are given.
const SESSION: &str = "SET NAMES utf8mb4; \
SET sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_BACKSLASH_ESCAPES,\
NO_ENGINE_SUBSTITUTION,NO_AUTO_VALUE_ON_ZERO,ERROR_FOR_DIVISION_BY_ZERO,NO_ZERO_DATE,\
NO_ZERO_IN_DATE'; \
SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
SET autocommit = 1, time_zone = '+00:00', sql_safe_updates = 0, sql_select_limit = DEFAULT";

/// A MySQL database: where it is, and how it is reached.
#[derive(Clone)]
pub(crate) struct Server {
    address: Address,
    database: String,
    location: String,
    /// What the session is called on the server.
    program: String,
}

/// Why there is no session.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Asking again changes nothing: a wrong password, no such database.
    Settings(String),
    /// The server does not answer, or not yet.
    Away(String),
}

impl Server {
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        if !(url.starts_with("mysql://") || url.starts_with("mariadb://")) {
            return Err("the URL does not begin with mysql:// or mariadb://".into());
        }
        let address = Address::parse(url, &|name| env::var(name).ok());
        let address = address.map_err(|error| error.to_string())?;
        let Some(database) = address.database().map(str::to_owned) else {
            return Err("the URL names no database: write mysql://…/DATABASE".into());
        };
        let location = address.shown();
        Ok(Self { address, database, location, program: "piton".into() })
    }

    /// Where it is, for people, without the password.
    pub(crate) fn location(&self) -> &str {
        &self.location
    }

    /// The database's name.
    pub(crate) fn database(&self) -> &str {
        &self.database
    }

    /// The same under another name of the program.
    pub(crate) fn named(mut self, program: String) -> Self {
        self.program = program;
        self
    }

    /// A session. `patience`: how long the server may take over one statement; a server that is
    /// gone without a word is noticed much sooner.
    pub(super) fn connect(&self, patience: Duration) -> Result<Conn, Refusal> {
        self.connect_as(SESSION, patience)
    }

    /// A session with settings of its own.
    pub(crate) fn connect_as(&self, session: &str, patience: Duration) -> Result<Conn, Refusal> {
        let attributes = HashMap::from([("program_name".to_owned(), self.program.clone())]);
        let conn = self.address.connect(|options| {
            options
                .db_name(Some(&self.database))
                .connect_attrs(Some(attributes.clone()))
                .read_timeout(Some(patience))
                .write_timeout(Some(patience))
        });
        let ready = conn.and_then(|mut conn| run(&mut conn, session).map(|()| conn));
        ready.map_err(|error| self.refusal(&error))
    }

    fn refusal(&self, error: &Error) -> Refusal {
        let (at, said) = (&self.location, described(error));
        match advice(error) {
            Some(advice) => Refusal::Settings(format!("cannot connect to {at}: {said}. {advice}")),
            None => Refusal::Away(format!("cannot connect to {at}: {said}")),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.location).finish()
    }
}

/// What to look at if asking again would be no use; `None` if it may be.
fn advice(error: &Error) -> Option<&'static str> {
    match error {
        Error::MySqlError(said) => match said.code {
            1045 | 1251 | 1698 => Some("Check the user and password in the URL (or MYSQL_PWD)"),
            1044 | 1142 => Some("Grant the user rights on the database"),
            1049 => Some("Check the database in the URL, or create it"),
            1129 | 1130 => Some("The server takes nobody from this host: ask its administrator"),
            3159 => Some("The server wants encryption: write ?ssl-mode=required"),
            _ => None,
        },
        Error::IoError(said) => {
            let of_tls = said.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
            matches!(of_tls, Some(rustls::Error::InvalidCertificate(_))).then_some(
                "The server cannot prove who it is: name the authority's certificate with \
                 `ssl-ca=FILE`, and the host as the certificate names it",
            )
        }
        Error::DriverError(
            DriverError::TlsNotSupported
            | DriverError::UnknownAuthPlugin(_)
            | DriverError::OldMysqlPasswordDisabled
            | DriverError::CleartextPluginDisabled,
        ) => Some("Check user, password and `ssl-mode` of the URL"),
        Error::TlsError(_) => Some("Check `ssl-mode` and `ssl-ca` of the URL"),
        error => (!is_lost(error)).then_some("Check the URL"),
    }
}

/// The rows of a query, every value as text.
pub(super) fn rows(conn: &mut Conn, sql: &str) -> Result<Vec<Row>, Error> {
    conn.query_iter(sql)?.collect()
}

/// A value of a row as text; `None` for NULL.
pub(super) fn text(row: &Row, column: usize) -> Option<String> {
    match row.as_ref(column) {
        None | Some(Value::NULL) => None,
        Some(Value::Bytes(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Some(Value::Int(number)) => Some(number.to_string()),
        Some(Value::UInt(number)) => Some(number.to_string()),
        Some(other) => Some(other.as_sql(true)),
    }
}

/// Text as it stands in a statement of a session without backslash escapes.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
