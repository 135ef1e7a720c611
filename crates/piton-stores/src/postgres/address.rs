//! The URL of a PostgreSQL database, as everything here reads it that connects to one.
//!
//! What it means is what it means to `psql`; the few exceptions are chosen for a program that
//! nobody watches, and are told at [`Address::parse`]. The password is never part of what is shown:
//! neither of the address nor of an error, also where a character that had to be encoded puts a
//! piece of it in another place.

use std::{error::Error as _, fmt, net::IpAddr, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use piton_core::StoreError;
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};

use super::tls::{SYSTEM, Tls, Verify};

/// How long an attempt to connect may take for each host, unless the URL says otherwise.
pub(super) const CONNECT: Duration = Duration::from_secs(10);

/// What the server shows in `pg_stat_activity`, unless the URL says otherwise.
const NAME: &str = "piton";

/// Settings where the URL says nothing. A server that is gone without a word is noticed after about
/// twenty seconds: less than a lease.
const DEFAULTS: [(&str, &str); 4] = [
    ("application_name", NAME),
    ("keepalives_idle", "10"),
    ("keepalives_interval", "3"),
    ("keepalives_retries", "3"),
];

/// How long what was sent may remain unacknowledged, unless the URL says otherwise.
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
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "options",
    "password",
    "port",
    "sslnegotiation",
    "target_session_attrs",
    "tcp_user_timeout",
    "user",
];

/// Where a database is and how it is reached.
#[derive(Clone)]
pub struct Address {
    pub(super) config: Config,
    pub(super) tls: Tls,
    shown: String,
}

/// An environment variable, if it is set.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl fmt::Debug for Address {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Address").field(&self.shown).finish()
    }
}

impl Address {
    /// Reads a URL: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full`. What it
    /// leaves out comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`
    /// and `PGSSLROOTCERT`. Touches neither disk nor network.
    ///
    /// Other than to `psql`: without any host it is `localhost`; an attempt to connect ends after
    /// `connect_timeout` seconds for each host, 10 if it is 0 or left out; `sslmode=allow` is
    /// `prefer`; authorities are those of the operating system where no file is named. Passwords
    /// in `.pgpass`, service files and certificates of clients are not looked for.
    ///
    /// # Errors
    /// [`StoreError::Refused`], which says how it is written and repeats no part that may be
    /// secret.
    pub fn parse(url: &str, environment: Environment<'_>) -> Result<Self, StoreError> {
        if !["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
            return Err(refused("the URL does not begin with postgres://"));
        }
        let (server, query) = url.split_once('?').unwrap_or((url, ""));
        // A password with a character that had to be encoded lies in another place.
        if server.matches('@').count() > 1 || query.contains('@') {
            return Err(unreadable());
        }
        let query = Query::parse(query)?;
        let config: Result<Config, _> = format!("{server}?{}", query.rest.join("&")).parse();
        let mut config = config.map_err(|error: tokio_postgres::Error| unfit(&error))?;
        complete(&mut config, environment)?;
        config.tcp_user_timeout(query.unacknowledged);
        let mode = query.mode.or_else(|| environment("PGSSLMODE"));
        let root = query.root.or_else(|| environment("PGSSLROOTCERT")).map(PathBuf::from);
        let tls = tls_of(mode, root, &mut config)?;
        let shown = shown(&config)?;
        Ok(Self { config, tls, shown })
    }

    /// The address for people, without the password.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The same under another name of the program, which the server shows in `pg_stat_activity`.
    /// A name in the URL goes before it.
    #[must_use]
    pub fn named(mut self, application: &str) -> Self {
        if self.config.get_application_name() == Some(NAME) {
            self.config.application_name(application);
        }
        self
    }

    /// How long an attempt to connect may take in all: each host has its own limit for the network,
    /// and none for a server or proxy that is silent then.
    pub(super) fn patience(&self) -> Duration {
        let hosts = self.config.get_hosts().len().max(self.config.get_hostaddrs().len()).max(1);
        let each = self.config.get_connect_timeout().copied().unwrap_or(CONNECT);
        each.saturating_mul(u32::try_from(hosts).unwrap_or(u32::MAX))
    }
}

/// What stands after the `?`.
struct Query {
    mode: Option<String>,
    root: Option<String>,
    unacknowledged: Duration,
    /// What is about anything else, as the client takes it.
    rest: Vec<String>,
}

impl Query {
    fn parse(query: &str) -> Result<Self, StoreError> {
        let (mut mode, mut root, mut unacknowledged) = (None, None, UNACKNOWLEDGED);
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                refused("a setting of the URL lacks its value: write ?name=value")
            })?;
            let decoded = percent_decode_str(value).decode_utf8_lossy();
            match key {
                "sslmode" => mode = Some(decoded.into_owned()),
                "sslrootcert" => root = Some(decoded.into_owned()),
                "tcp_user_timeout" => {
                    let millis = decoded.parse().map(Duration::from_millis);
                    unacknowledged = millis.map_err(|_| {
                        refused("`tcp_user_timeout` must be a number of milliseconds")
                    })?;
                }
                // The client's name for it.
                "keepalives_count" => rest.push(format!("keepalives_retries={value}")),
                key if KNOWN.contains(&key) => rest.push(pair.to_owned()),
                _ => return Err(unknown(query, key)),
            }
        }
        for (key, value) in DEFAULTS {
            if !rest.iter().any(|pair| pair.split_once('=').is_some_and(|(name, _)| name == key)) {
                rest.push(format!("{key}={value}"));
            }
        }
        Ok(Self { mode, root, unacknowledged, rest })
    }
}

fn refused(what: &str) -> StoreError {
    let what = format!("{what}. Write postgres://USER:PASSWORD@HOST:PORT/DATABASE");
    StoreError::Refused { what }
}

fn unknown(query: &str, key: &str) -> StoreError {
    // What looks like a name may be a piece of a password, where a & in it was not encoded.
    let name = if query.contains("password") { String::new() } else { format!(" '{key}'") };
    let what = format!(
        "the address of the PostgreSQL database has a setting{name} that is not known: known are \
         sslmode, sslrootcert, {}",
        KNOWN.join(", ")
    );
    StoreError::Refused { what }
}

fn unreadable() -> StoreError {
    let what = "the address of the PostgreSQL database cannot be read: write \
        postgres://USER:PASSWORD@HOST:PORT/DATABASE, and in the password %40 for @, %3A for :, \
        %2F for /, %3F for ?, %23 for #, %26 for & and %25 for %"
        .to_owned();
    StoreError::Refused { what }
}

/// What the client says of a URL. It names the setting and never the value.
fn unfit(error: &tokio_postgres::Error) -> StoreError {
    let said = error.source().map(ToString::to_string).unwrap_or_default();
    if said.starts_with("invalid value for option") { refused(&said) } else { unreadable() }
}

/// Fills in what the URL leaves out.
fn complete(config: &mut Config, environment: Environment<'_>) -> Result<(), StoreError> {
    if config.get_hosts().is_empty() {
        // A certificate can be compared with an address, too.
        let addresses = config.get_hostaddrs().to_vec();
        for address in &addresses {
            config.host(address.to_string());
        }
        if addresses.is_empty() {
            config.host(environment("PGHOST").unwrap_or_else(|| "localhost".to_owned()));
        }
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
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    Ok(())
}

/// What `sslmode` asks for.
fn tls_of(
    mode: Option<String>,
    root: Option<PathBuf>,
    config: &mut Config,
) -> Result<Tls, StoreError> {
    // As libpq has it: with anybody's authorities, only the name says who it is.
    let is_system = root.as_ref().is_some_and(|root| root.as_os_str() == SYSTEM);
    let default = if is_system { "verify-full" } else { "prefer" };
    let mode = mode.unwrap_or_else(|| default.to_owned());
    let (mode, verify) = match &*mode {
        "disable" | "allow" | "prefer" | "require" | "verify-ca" if is_system => {
            let what = format!("sslmode={mode} is too weak for sslrootcert=system: verify-full");
            return Err(StoreError::Refused { what });
        }
        "disable" => (SslMode::Disable, Verify::Nothing),
        "allow" | "prefer" => (SslMode::Prefer, Verify::Nothing),
        // As libpq: whoever names an authority wants it to be asked.
        "require" if root.is_some() => (SslMode::Require, Verify::Authority),
        "require" => (SslMode::Require, Verify::Nothing),
        "verify-ca" => (SslMode::Require, Verify::Authority),
        "verify-full" => (SslMode::Require, Verify::Full),
        _ => {
            return Err(refused(
                "`sslmode` must be disable, prefer, require, verify-ca or verify-full",
            ));
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
            Host::Tcp(host) => match host.parse::<IpAddr>() {
                Ok(IpAddr::V6(_)) => Ok(format!("[{host}]:{port}")),
                // Part of a password that had to be encoded.
                Err(_) if host.contains(['@', '/', ':', ' ']) => Err(unreadable()),
                _ => Ok(format!("{host}:{port}")),
            },
            #[cfg(unix)]
            Host::Unix(folder) => Ok(format!("{}:{port}", folder.display())),
        }
    });
    let hosts: Vec<String> = hosts.collect::<Result<_, _>>()?;
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
            ("postgres://ann:s3cret@[::1]:7/app", "postgres://ann@[::1]:7/app"),
            ("postgres://ann:s3cret@/app?hostaddr=fe80::1", "postgres://ann@[fe80::1]:5432/app"),
            ("postgres://ann:s3cret@%2Frun%2Fpg/app", "postgres://ann@/run/pg:5432/app"),
        ] {
            let address = parse(url).unwrap();
            assert_eq!(address.shown(), shown, "{url}");
            assert!(address.config.get_password().is_some_and(|p| p.starts_with(b"s3")));
            assert!(!format!("{address:?}").contains("cret"), "{address:?}");
        }
    }

    #[test]
    fn no_error_tells_a_piece_of_a_password() {
        for url in [
            "postgres://ann:s3@cret@h/app",
            "postgres://ann:s3@cret/x@h/app",
            "postgres://h/app?user=ann&password=s3@cret",
            "postgres://h/app?user=ann&password=s3&cret=1",
            "postgres://h/app?user=ann&password=s3%FFcret&port=x",
            "host=h user=ann password=s3cret",
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
    fn what_cannot_be_used_is_named() {
        for (url, why) in [
            ("mysql://me@db/x", "does not begin with postgres://"),
            ("postgres://me:a@b@db/x", "%40"),
            ("postgres://me@db:port/x", "port"),
            ("postgres://me@db/x?sslmode=verify", "`sslmode` must be"),
            ("postgres://me@db/x?sslmode=verify-ca&sslrootcert=system", "too weak"),
            ("postgres://me@db/x?ssl=yes", "'ssl'"),
            ("postgres://me@db/x?sslmode", "lacks its value"),
            ("postgres://me@db/x?tcp_user_timeout=1s", "milliseconds"),
        ] {
            let told = parse(url).unwrap_err().to_string();
            assert!(told.contains(why), "{url}: {told}");
        }
    }

    #[test]
    fn settings_mean_what_they_mean_to_libpq() {
        let read = |query: &str| parse(&format!("postgres://me@db/x?{query}")).unwrap();
        let of_tls = |query: &str| {
            let Address { config, tls, .. } = read(query);
            (config.get_ssl_mode(), tls.verify, tls.root)
        };
        let file = || Some(PathBuf::from("/etc/my ca.pem"));
        let root = "sslrootcert=/etc/my%20ca.pem";
        for (query, mode, verify, root) in [
            (String::new(), SslMode::Prefer, Verify::Nothing, None),
            ("sslmode=allow".into(), SslMode::Prefer, Verify::Nothing, None),
            ("sslmode=require".into(), SslMode::Require, Verify::Nothing, None),
            (format!("sslmode=require&{root}"), SslMode::Require, Verify::Authority, file()),
            (format!("sslmode=verify-ca&{root}"), SslMode::Require, Verify::Authority, file()),
            ("sslmode=verify-full".into(), SslMode::Require, Verify::Full, None),
            ("sslrootcert=system".into(), SslMode::Require, Verify::Full, Some("system".into())),
        ] {
            assert_eq!(of_tls(&query), (mode, verify, root), "{query}");
        }

        let left_out = read("");
        assert_eq!(left_out.patience(), CONNECT);
        assert_eq!(left_out.config.get_keepalives_idle(), Duration::from_secs(10));
        assert_eq!(left_out.config.get_tcp_user_timeout(), Some(&UNACKNOWLEDGED));
        let set = "connect_timeout=3&keepalives_idle=70&keepalives_count=7&tcp_user_timeout=1500";
        let set = read(set);
        assert_eq!(set.patience(), Duration::from_secs(3));
        assert_eq!(set.config.get_keepalives_idle(), Duration::from_secs(70));
        assert_eq!(set.config.get_keepalives_retries(), Some(7));
        assert_eq!(set.config.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
        let several = parse("postgres://me@a,b,c/x?connect_timeout=2").unwrap();
        assert_eq!(several.patience(), Duration::from_secs(6));

        let name = |address: Address| address.config.get_application_name().map(str::to_owned);
        assert_eq!(name(read("").named("piton p")).as_deref(), Some("piton p"));
        let mine = read("application_name=mine").named("piton p");
        assert_eq!(name(mine).as_deref(), Some("mine"));
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
                "PGSSLROOTCERT" => "/ca.pem",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let left_out = Address::parse("postgres:///app", &environment).ok().unwrap();
        assert_eq!(left_out.shown(), "postgres://ann@db.example:6432/app");
        assert_eq!(left_out.config.get_password(), Some(&b"s3cret"[..]));
        assert_eq!(left_out.tls.verify, Verify::Full);
        assert_eq!(left_out.tls.root, Some("/ca.pem".into()));
        let url = "postgres://bob:own@h:1/x?sslmode=disable";
        let own = Address::parse(url, &environment).ok().unwrap();
        assert_eq!(own.shown(), "postgres://bob@h:1/x");
        assert_eq!(own.config.get_password(), Some(&b"own"[..]));
        assert_eq!(own.config.get_ssl_mode(), SslMode::Disable);
    }
}
