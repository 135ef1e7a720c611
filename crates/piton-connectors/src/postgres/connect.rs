//! From a URL to a connection.
//!
//! The URL is libpq's, with libpq's meaning of every parameter that is taken, so that what works
//! for `psql` works here. What libpq leaves open is chosen for a program that nobody watches: a
//! connection attempt ends after ten seconds, and a peer that is gone without a word is noticed in
//! about half a minute.
//!
//! A password comes from the URL or from `PGPASSWORD`, and is shown to nobody: places are named by
//! [`Server::location`], which has none, and no error repeats a part of a URL.

use std::{env, error::Error, fmt, io, path::PathBuf};

use postgres::{Client, error::SqlState};
use tokio_postgres::{
    Config, NoTls,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::tls::{self, Trust};

/// Parameters of a connection where the URL says nothing, in seconds where they are times.
const DEFAULTS: [(&str, &str); 6] = [
    ("application_name", "piton"),
    ("connect_timeout", "10"),
    ("keepalives_idle", "15"),
    ("keepalives_interval", "5"),
    ("keepalives_retries", "3"),
    ("tcp_user_timeout", "30"),
];

/// A PostgreSQL database: where it is, and how it is reached.
#[derive(Clone)]
pub struct Server {
    config: Config,
    trust: Option<Trust>,
    location: String,
}

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

/// The parameters of a URL that are not passed on as they are.
struct Taken {
    mode: String,
    root: Option<PathBuf>,
    rest: Vec<(String, String)>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("location", &self.location).finish_non_exhaustive()
    }
}

impl Server {
    /// Reads a URL: `postgres://user:password@host:5432/database?sslmode=verify-full`. Without a
    /// password in it, `PGPASSWORD` of the environment is used. Touches neither disk nor network.
    ///
    /// `sslmode` is `disable`, `prefer` (the default: encrypted if the server can), `require`
    /// (encrypted, whoever it is), `verify-ca` or `verify-full` (the server must prove who it is).
    /// It proves it to the authorities in `sslrootcert=FILE`, or to those that the system trusts.
    ///
    /// # Errors
    /// [`ConnectError::Url`].
    pub fn parse(url: &str) -> Result<Self, ConnectError> {
        Self::with_password(url, env::var("PGPASSWORD").ok())
    }

    fn with_password(url: &str, fallback: Option<String>) -> Result<Self, ConnectError> {
        let wrong = |what: &str| ConnectError::Url {
            what: format!("{what}. Write postgres://user:password@host:5432/database"),
        };
        let after_scheme = url.strip_prefix("postgres://").or(url.strip_prefix("postgresql://"));
        let rest = after_scheme.ok_or_else(|| wrong("the URL does not begin with postgres://"))?;
        let (credentials, place) = match rest.split_once('@') {
            Some((credentials, place)) => (format!("{credentials}@"), place),
            None => (String::new(), rest),
        };
        let (place, parameters) = place.split_once('?').unwrap_or((place, ""));
        if place.contains('@') {
            return Err(wrong("an @ in a user name or password is written %40"));
        }
        let taken = take_parameters(parameters)?;
        let trust = trust(&taken)?;
        let query: Vec<String> = taken.rest.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let plain = format!("postgres://{credentials}{place}?{}", query.join("&"));
        let mut config: Config = plain.parse().map_err(|e: postgres::Error| {
            // The source names the parameter and never its value.
            wrong(&e.source().map_or_else(|| e.to_string(), ToString::to_string))
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(wrong("the URL names no host"));
        }
        config.ssl_mode(match taken.mode.as_str() {
            "disable" => SslMode::Disable,
            "prefer" => SslMode::Prefer,
            _ => SslMode::Require,
        });
        if let (None, Some(password)) = (config.get_password(), fallback) {
            config.password(password);
        }
        let location = location(&config);
        Ok(Self { config, trust, location })
    }

    /// The same database under another name of the program, which the server shows in
    /// `pg_stat_activity`. A name in the URL goes before it.
    #[must_use]
    pub fn named(mut self, application: &str) -> Self {
        if self.config.get_application_name() == Some(DEFAULTS[0].1) {
            self.config.application_name(application);
        }
        self
    }

    /// Where it is, without the password: `postgres://user@host:5432/database`.
    pub fn location(&self) -> &str {
        &self.location
    }

    /// The parameters of the connection, for clients of another sort. They hold the password.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Connects, at most for the `connect_timeout` of the URL for each address of the host.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] or [`ConnectError::Unavailable`].
    pub fn connect(&self) -> Result<Client, ConnectError> {
        self.attempt(|config, encryption| {
            let config = postgres::Config::from(config.clone());
            match encryption {
                Some(encryption) => config.connect(encryption),
                None => config.connect(NoTls),
            }
        })
    }

    /// Connects by whatever makes a connection, encrypted if there is what it needs for that.
    pub(super) fn attempt<T>(
        &self,
        mut connect: impl FnMut(&Config, Option<MakeRustlsConnect>) -> Result<T, postgres::Error>,
    ) -> Result<T, ConnectError> {
        let encryption = self.trust.as_ref().map(tls::connector).transpose();
        let encryption = encryption.map_err(|what| ConnectError::Refused { what })?;
        let connected = connect(&self.config, encryption);
        match connected {
            // As libpq: what fails with encryption is tried without, if none was demanded.
            Err(error)
                if self.config.get_ssl_mode() == SslMode::Prefer && is_about_encryption(&error) =>
            {
                let mut plain = self.config.clone();
                plain.ssl_mode(SslMode::Disable);
                connect(&plain, None).map_err(|_| self.failure(&error))
            }
            connected => connected.map_err(|e| self.failure(&e)),
        }
    }

    /// What a failed attempt means.
    fn failure(&self, error: &postgres::Error) -> ConnectError {
        let at = &self.location;
        let said = describe(error);
        if let Some(advice) = refusal(error) {
            let what = format!("cannot connect to {at}: {said}. {advice}");
            return ConnectError::Refused { what };
        }
        ConnectError::Unavailable { what: format!("cannot connect to {at}: {said}") }
    }
}

/// What an error says, with its causes: its own words alone are often "db error".
pub fn describe(error: &postgres::Error) -> String {
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

/// Whether the connection is gone: the server ends it, it was cut, or nothing could be sent. What
/// was under way may or may not have been done.
pub fn is_lost(error: &postgres::Error) -> bool {
    match error.code() {
        Some(code) => {
            let class = &code.code()[..2];
            class == "08"
                || *code == SqlState::ADMIN_SHUTDOWN
                || *code == SqlState::CRASH_SHUTDOWN
                || *code == SqlState::CANNOT_CONNECT_NOW
                || *code == SqlState::IDLE_SESSION_TIMEOUT
                || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
        }
        None => error.is_closed() || cause::<io::Error>(error).is_some(),
    }
}

/// What to look at if asking again would be no use; `None` if it may be.
fn refusal(error: &postgres::Error) -> Option<&'static str> {
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

/// Whether another attempt without encryption may do better.
fn is_about_encryption(error: &postgres::Error) -> bool {
    tls_error(error).is_some()
        || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

fn tls_error(error: &postgres::Error) -> Option<&rustls::Error> {
    let io = cause::<io::Error>(error);
    let inner = io.and_then(|io| io.get_ref()?.downcast_ref::<rustls::Error>());
    inner.or_else(|| cause(error))
}

/// The first cause of a type.
fn cause<T: Error + 'static>(error: &postgres::Error) -> Option<&T> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Takes the parameters that libpq knows and the client here does not, or not in the same way.
fn take_parameters(parameters: &str) -> Result<Taken, ConnectError> {
    let mut taken = Taken { mode: "prefer".into(), root: None, rest: Vec::new() };
    for pair in parameters.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(|| ConnectError::Url {
            what: "a parameter of the URL lacks its value: write ?name=value".into(),
        })?;
        match key {
            "sslmode" => taken.mode = value.to_owned(),
            "sslrootcert" => taken.root = Some(PathBuf::from(decoded(value)?)),
            // libpq's name for it.
            "keepalives_count" => taken.rest.push(("keepalives_retries".into(), value.into())),
            // libpq counts milliseconds.
            "tcp_user_timeout" => {
                let millis: u64 = value.parse().map_err(|_| ConnectError::Url {
                    what: "`tcp_user_timeout` is a number of milliseconds".into(),
                })?;
                taken.rest.push((key.into(), millis.div_ceil(1000).to_string()));
            }
            _ => taken.rest.push((key.into(), value.into())),
        }
    }
    for (key, value) in DEFAULTS {
        if !taken.rest.iter().any(|(taken, _)| taken == key) {
            taken.rest.push((key.into(), value.into()));
        }
    }
    Ok(taken)
}

fn decoded(value: &str) -> Result<String, ConnectError> {
    let wrong = || ConnectError::Url { what: "`sslrootcert` is not a file name".into() };
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        match escaped {
            Some(digits) => {
                let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
                bytes.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// Whom to trust; `None` without encryption.
fn trust(taken: &Taken) -> Result<Option<Trust>, ConnectError> {
    Ok(Some(match (taken.mode.as_str(), taken.root.clone()) {
        ("disable", _) => return Ok(None),
        ("prefer", _) | ("require", None) => Trust::Anybody,
        // As libpq: a named authority is there to be asked.
        ("require" | "verify-ca", root) => Trust::Authority(root),
        ("verify-full", root) => Trust::Named(root),
        _ => {
            return Err(ConnectError::Url {
                what: "`sslmode` must be disable, prefer, require, verify-ca or verify-full".into(),
            });
        }
    }))
}

fn location(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |i: usize| ports.get(i).or(ports.first()).copied().unwrap_or(5432);
    let host = |(i, host): (usize, &Host)| match host {
        Host::Tcp(name) if name.contains(':') => format!("[{name}]:{}", port(i)),
        Host::Tcp(name) => format!("{name}:{}", port(i)),
        #[cfg(unix)]
        Host::Unix(path) => format!("{}:{}", path.display(), port(i)),
    };
    let mut hosts: Vec<String> = config.get_hosts().iter().enumerate().map(host).collect();
    if hosts.is_empty() {
        let addresses = config.get_hostaddrs().iter().enumerate();
        hosts.extend(addresses.map(|(i, address)| format!("{address}:{}", port(i))));
    }
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgres://{user}{}/{database}", hosts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Server {
        Server::with_password(url, None).unwrap()
    }

    #[test]
    fn a_location_never_has_the_password() {
        for (url, shown) in [
            ("postgres://me:s3cret@db.example/crm", "postgres://me@db.example:5432/crm"),
            ("postgresql://me:s3%40cret@db:6000", "postgres://me@db:6000/me"),
            ("postgres://me@[::1]:7/x?password=s3cret", "postgres://me@[::1]:7/x"),
            ("postgres://me:s3cret@a:1,b:2/x", "postgres://me@a:1,b:2/x"),
        ] {
            let server = parse(url);
            assert_eq!(server.location(), shown);
            assert!(!format!("{server:?}").contains("cret"), "{server:?}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_says_why_and_repeats_no_secret() {
        for (url, why) in [
            ("mysql://me:s3cret@db/x", "does not begin with postgres://"),
            ("postgres://me:s3cret@now@db/x", "%40"),
            ("postgres:///x?password=s3cret", "names no host"),
            ("postgres://me:s3cret@db:port/x", "port"),
            ("postgres://me:s3cret@db/x?sslmode=verify", "`sslmode` must be"),
            ("postgres://me:s3cret@db/x?ssl=yes", "ssl"),
            ("postgres://me:s3cret@db/x?sslmode", "lacks its value"),
        ] {
            let error = Server::with_password(url, None).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn the_url_goes_before_the_environment_and_both_before_defaults() {
        let password = |url: &str, env: Option<&str>| {
            let server = Server::with_password(url, env.map(str::to_owned)).unwrap();
            server.config.get_password().map(|p| String::from_utf8_lossy(p).into_owned())
        };
        assert_eq!(password("postgres://me:a@db/x", Some("b")).as_deref(), Some("a"));
        assert_eq!(password("postgres://me@db/x", Some("b")).as_deref(), Some("b"));
        assert_eq!(password("postgres://me@db/x", None), None);

        let seconds =
            |url: &str| parse(url).config.get_connect_timeout().map(std::time::Duration::as_secs);
        assert_eq!(seconds("postgres://me@db/x"), Some(10));
        assert_eq!(seconds("postgres://me@db/x?connect_timeout=3"), Some(3));
        let name = |server: Server| server.config.get_application_name().map(str::to_owned);
        assert_eq!(name(parse("postgres://me@db/x").named("piton p")).unwrap(), "piton p");
        let mine = parse("postgres://me@db/x?application_name=mine").named("piton p");
        assert_eq!(name(mine).unwrap(), "mine");
        let millis = parse("postgres://me@db/x?tcp_user_timeout=1500");
        assert_eq!(millis.config.get_tcp_user_timeout().unwrap().as_secs(), 2);
    }

    #[test]
    fn modes_of_encryption_mean_what_libpq_says() {
        let trust = |query: &str| parse(&format!("postgres://me@db/x?{query}")).trust;
        let file = || Some(PathBuf::from("/etc/my ca.pem"));
        assert_eq!(trust("sslmode=disable"), None);
        assert_eq!(trust(""), Some(Trust::Anybody));
        assert_eq!(trust("sslmode=require"), Some(Trust::Anybody));
        assert_eq!(
            trust("sslmode=require&sslrootcert=/etc/my%20ca.pem"),
            Some(Trust::Authority(file()))
        );
        assert_eq!(trust("sslmode=verify-full"), Some(Trust::Named(None)));
        let mode =
            |query: &str| parse(&format!("postgres://me@db/x?{query}")).config.get_ssl_mode();
        assert_eq!(mode(""), SslMode::Prefer);
        assert_eq!(mode("sslmode=verify-ca"), SslMode::Require);
    }
}
