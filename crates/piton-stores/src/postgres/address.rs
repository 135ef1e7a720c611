//! The URL of a store in PostgreSQL.
//!
//! What it means is what it means to `psql`. The password is never part of what is shown: neither
//! of the address nor of an error, also where a character that had to be encoded puts a piece of it
//! in another place.

use std::{path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use piton_core::StoreError;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use super::tls::{Tls, Verify};

/// How long one attempt to connect may take, unless the URL says otherwise.
const CONNECT: Duration = Duration::from_secs(10);

/// A server that is gone without a word is noticed after about this long: less than a lease.
const IDLE: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_secs(3);
const PROBES: u32 = 3;
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);

/// What a URL may say after the `?`, beside what is about TLS.
const KNOWN: &[&str] = &[
    "application_name",
    "channel_binding",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "sslnegotiation",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Where a store is and how it is reached.
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) tls: Tls,
    shown: String,
}

/// An environment variable, if it is set.
type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Address {
    /// Reads a URL; what it leaves out comes from the environment.
    pub(super) fn parse(url: &str, environment: Environment<'_>) -> Result<Self, StoreError> {
        let (server, query) = url.split_once('?').unwrap_or((url, ""));
        if !server.contains('@') && query.contains('@') {
            return Err(unreadable());
        }
        let Query { mode, root, rest } = Query::parse(query)?;
        let mut config: Config =
            format!("{server}?{rest}").parse().map_err(|_: tokio_postgres::Error| unreadable())?;
        complete(&mut config, environment)?;
        let mode = mode.or_else(|| environment("PGSSLMODE"));
        let root = root.or_else(|| environment("PGSSLROOTCERT")).map(PathBuf::from);
        let tls = tls_of(mode.as_deref().unwrap_or("prefer"), root, &mut config)?;
        let shown = shown(&config)?;
        Ok(Self { config, tls, shown })
    }

    /// The address for people, without the password.
    pub(super) fn shown(&self) -> &str {
        &self.shown
    }
}

/// What stands after the `?`.
#[derive(Default)]
struct Query {
    mode: Option<String>,
    root: Option<String>,
    /// What is about anything else, as it stands.
    rest: String,
}

impl Query {
    fn parse(query: &str) -> Result<Self, StoreError> {
        let mut parsed = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(unreadable)?;
            let decoded = percent_decode_str(value).decode_utf8_lossy();
            match key {
                "sslmode" => parsed.mode = Some(decoded.into_owned()),
                "sslrootcert" => parsed.root = Some(decoded.into_owned()),
                key if KNOWN.contains(&key) => {
                    parsed.rest.push_str(pair);
                    parsed.rest.push('&');
                }
                key => return Err(unknown(key)),
            }
        }
        parsed.rest.pop();
        Ok(parsed)
    }
}

fn unknown(key: &str) -> StoreError {
    let what = format!(
        "the address of the PostgreSQL store has a setting '{key}' that is not known: known are \
         sslmode, sslrootcert, {}",
        KNOWN.join(", ")
    );
    StoreError::Refused { what }
}

fn unreadable() -> StoreError {
    let what = "the address of the PostgreSQL store cannot be read: write \
        postgres://USER:PASSWORD@HOST:PORT/DATABASE, and in the password %40 for @, %3A for :, \
        %2F for /, %3F for ?, %23 for # and %25 for %"
        .to_owned();
    StoreError::Refused { what }
}

/// Fills in what the URL leaves out.
fn complete(config: &mut Config, environment: Environment<'_>) -> Result<(), StoreError> {
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        config.host(environment("PGHOST").unwrap_or_else(|| "localhost".to_owned()));
    }
    if config.get_ports().is_empty()
        && let Some(port) = environment("PGPORT")
    {
        config.port(port.parse().map_err(|_| StoreError::Refused {
            what: format!("PGPORT is '{port}', which is no port"),
        })?);
    }
    if config.get_user().is_none()
        && let Some(user) = environment("PGUSER")
    {
        config.user(user);
    }
    if config.get_password().is_none()
        && let Some(password) = environment("PGPASSWORD")
    {
        config.password(password);
    }
    if config.get_dbname().is_none()
        && let Some(name) = environment("PGDATABASE")
    {
        config.dbname(name);
    }
    if config.get_application_name().is_none() {
        config.application_name("piton");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(UNACKNOWLEDGED);
    }
    if config.get_keepalives_interval().is_none() {
        config.keepalives_idle(IDLE).keepalives_interval(BETWEEN).keepalives_retries(PROBES);
    }
    Ok(())
}

/// What `sslmode` asks for.
fn tls_of(mode: &str, root: Option<PathBuf>, config: &mut Config) -> Result<Tls, StoreError> {
    let (mode, verify) = match mode {
        "disable" => (SslMode::Disable, Verify::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, Verify::Nothing),
        // As libpq has it: whoever names an authority wants it to be asked.
        "require" if root.is_some() => (SslMode::Require, Verify::Authority),
        "require" => (SslMode::Require, Verify::Nothing),
        "verify-ca" => (SslMode::Require, Verify::Authority),
        "verify-full" => (SslMode::Require, Verify::Full),
        other => {
            let what = format!(
                "sslmode is '{other}': it can be disable, prefer, require, verify-ca or verify-full"
            );
            return Err(StoreError::Refused { what });
        }
    };
    config.ssl_mode(mode);
    Ok(Tls { verify, root })
}

fn shown(config: &Config) -> Result<String, StoreError> {
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(n, host)| {
        let port = ports.get(n).or(ports.first()).map_or(5432, |port| *port);
        match host {
            // Part of a password that had to be encoded.
            Host::Tcp(host) if host.contains(['@', '/', ':', ' ']) => Err(unreadable()),
            Host::Tcp(host) => Ok(format!("{host}:{port}")),
            #[cfg(unix)]
            Host::Unix(folder) => Ok(format!("{}:{port}", folder.display())),
        }
    });
    let mut hosts: Vec<String> = hosts.collect::<Result<_, _>>()?;
    if hosts.is_empty() {
        hosts = config.get_hostaddrs().iter().map(ToString::to_string).collect();
    }
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    Ok(format!("postgres://{user}{}/{database}", hosts.join(",")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, StoreError> {
        Address::parse(url, &|_| None)
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        for (url, shown) in [
            ("postgres://ann:s3cret@db.example:6432/app", "postgres://ann@db.example:6432/app"),
            ("postgresql://ann:s3cret@db.example", "postgres://ann@db.example:5432/ann"),
            ("postgres://h/app?user=ann&password=s3cret", "postgres://ann@h:5432/app"),
            ("postgres://ann@a:1,b:2/app?password=s3cret", "postgres://ann@a:1,b:2/app"),
            ("postgres://ann:s3%40cret@h/app?sslmode=require", "postgres://ann@h:5432/app"),
        ] {
            let address = parse(url).map_err(|e| e.to_string()).unwrap();
            assert_eq!(address.shown(), shown, "{url}");
            assert!(address.config.get_password().is_some_and(|p| p.starts_with(b"s3")));
        }
    }

    #[test]
    fn no_error_tells_a_piece_of_a_password() {
        for url in [
            "postgres://ann:s3@cret@h/app",
            "postgres://ann:s3?cret=1@h/app",
            "postgres://ann:s3?cret@h/app",
            "postgres://ann:s3/cret@h/app",
            "postgres://ann:s3#cret:x@h/app",
            "postgres://ann:s3:cret@h:port/app",
            "postgres://ann:s3@h:cret/app",
            "postgres://ann:s3cret@h/app?sslmode=maybe",
            "postgres://ann:s3cret@h/app?sslkey=k",
        ] {
            match parse(url) {
                Ok(address) => assert!(!address.shown().contains("cret"), "{}", address.shown()),
                Err(error) => {
                    let told = error.to_string();
                    assert!(!told.contains("cret") && !told.contains("s3"), "{url}: {told}");
                }
            }
        }
    }

    #[test]
    fn the_environment_fills_in_what_is_left_out() {
        let environment = |name: &str| {
            let value = match name {
                "PGPASSWORD" => "s3cret",
                "PGUSER" => "ann",
                "PGHOST" => "db.example",
                "PGPORT" => "6432",
                "PGSSLMODE" => "verify-full",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let left_out = Address::parse("postgres:///app", &environment).ok().unwrap();
        assert_eq!(left_out.shown(), "postgres://ann@db.example:6432/app");
        assert_eq!(left_out.config.get_password(), Some(&b"s3cret"[..]));
        assert_eq!(left_out.tls.verify, Verify::Full);
        let url = "postgres://bob:own@h:1/x?sslmode=disable";
        let own = Address::parse(url, &environment).ok().unwrap();
        assert_eq!(own.shown(), "postgres://bob@h:1/x");
        assert_eq!(own.config.get_password(), Some(&b"own"[..]));
        assert_eq!(own.config.get_ssl_mode(), SslMode::Disable);
    }
}
