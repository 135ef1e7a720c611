//! From a URL to a connection.
//!
//! The URL is that of a store in such a database, read by the same code, which also connects. A
//! password is shown to nobody: places are named by [`Server::location`], which has none, and no
//! error repeats a part of a URL.

use std::{env, error::Error, fmt, io};

use piton_stores::postgres::{Address, Driver, NoConnection, tls_error};
use tokio_postgres::{Client, Notification, error::SqlState};

pub use piton_stores::postgres::is_lost;

/// A PostgreSQL database: where it is, and how it is reached.
#[derive(Clone)]
pub struct Server(Address);

/// Why there is no connection. Named by what the caller can do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL cannot be used: mend the configuration.
    #[error("{what}")]
    Url {
        /// What is wrong and how it is written.
        what: String,
    },
    /// The server was reached and does not let this program in: wrong password, no such database,
    /// a certificate that is not trusted. Asking again changes nothing.
    #[error("{what}")]
    Refused {
        /// What the server said, and what to look at.
        what: String,
    },
    /// The server does not answer, or not yet. Worth another try.
    #[error("{what}")]
    Unavailable {
        /// What failed, where.
        what: String,
    },
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.location()).finish()
    }
}

impl Server {
    /// Reads a URL, as [`Address::parse`] says; what it leaves out comes from the environment.
    /// Touches neither disk nor network.
    ///
    /// # Errors
    /// [`ConnectError::Url`].
    pub fn parse(url: &str) -> Result<Self, ConnectError> {
        let address = Address::parse(url, &|name| env::var(name).ok());
        address.map(Self).map_err(|error| ConnectError::Url { what: error.to_string() })
    }

    /// The same database under another name of the program, which the server shows in
    /// `pg_stat_activity`. A name in the URL goes before it.
    #[must_use]
    pub fn named(self, application: &str) -> Self {
        Self(self.0.named(application))
    }

    /// Where it is, without the password: `postgres://user@host:5432/database`.
    pub fn location(&self) -> &str {
        self.0.shown()
    }

    /// Connects.
    pub(super) async fn connect(
        &self,
        heard: impl FnMut(Notification) + Send + 'static,
    ) -> Result<(Client, Driver), ConnectError> {
        self.0.connect(heard).await.map_err(|error| self.failure(&error))
    }

    /// What a failed attempt means.
    fn failure(&self, error: &NoConnection) -> ConnectError {
        let at = self.location();
        let (said, advice) = match error {
            NoConnection::Said(error) => (describe(error), refusal(error)),
            NoConnection::Authorities(what) => (what.clone(), Some(AUTHORITIES)),
            silent => (silent.to_string(), None),
        };
        let what = format!("cannot connect to {at}: {said}");
        match advice {
            Some(advice) => ConnectError::Refused { what: format!("{what}. {advice}") },
            None => ConnectError::Unavailable { what },
        }
    }
}

const AUTHORITIES: &str = "Name a file with the authorities' certificates with `sslrootcert=FILE`";

/// What an error says, with its causes: its own words alone are often "db error".
pub fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(said) = error.as_db_error() {
        let detail = said.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}{detail}", said.message());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// The first two characters of an error's code, which say what it is about.
pub(super) fn class(error: &tokio_postgres::Error) -> Option<&str> {
    error.code()?.code().get(..2)
}

/// What to look at if asking again would be no use; `None` if it may be.
fn refusal(error: &tokio_postgres::Error) -> Option<&'static str> {
    if let Some(code) = error.code() {
        return match *code {
            SqlState::INVALID_PASSWORD => Some("Check the user and password in the URL"),
            SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
                Some("Check the user in the URL, and pg_hba.conf of the server")
            }
            SqlState::INVALID_CATALOG_NAME => Some("Check the database in the URL, or create it"),
            SqlState::INSUFFICIENT_PRIVILEGE => Some("Grant the user CONNECT on the database"),
            _ => None,
        };
    }
    if let Some(rustls::Error::InvalidCertificate(_)) = tls_error(error) {
        return Some(
            "The server cannot prove who it is: name the authority's certificate with \
             `sslrootcert=FILE`, and the host as the certificate names it",
        );
    }
    if let Some(rustls::Error::AlertReceived(_)) = tls_error(error) {
        return Some("The server does not accept this sort of encryption");
    }
    let is_reached = cause::<io::Error>(error).is_none() && !error.is_closed();
    is_reached.then_some("Check user, password (or PGPASSWORD) and `sslmode` of the URL")
}

/// The first cause of a type.
fn cause<T: Error + 'static>(error: &tokio_postgres::Error) -> Option<&T> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::{super::wire::Wire, *};

    #[test]
    fn a_location_never_has_the_password() {
        for (url, shown) in [
            ("postgres://me:s3cret@db.example/crm", "postgres://me@db.example:5432/crm"),
            ("postgres://me@[::1]:7/x?password=s3cret", "postgres://me@[::1]:7/x"),
        ] {
            let server = Server::parse(url).unwrap();
            assert_eq!(server.location(), shown);
            assert!(!format!("{server:?}").contains("cret"), "{server:?}");
        }
        let error = Server::parse("postgres://h/app?user=ann&password=s3@cret").unwrap_err();
        assert!(
            !error.to_string().contains("cret") && error.to_string().contains("%40"),
            "{error}"
        );
    }

    /// The network takes the connection, and nobody answers: worth another try.
    #[test]
    fn a_silent_peer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let server = Server::parse(&format!("postgres://me@{place}/x?connect_timeout=1")).unwrap();
        let error = Wire::open(&server).err().unwrap();
        assert!(
            matches!(&error, ConnectError::Unavailable { what } if what.contains("1 s")),
            "{error}"
        );
    }
}
