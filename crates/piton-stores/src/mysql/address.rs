//! The URL of a MySQL or MariaDB server, and the way from it to a connection.
//!
//! The password is never part of what is shown, neither of the address nor of an error.

use std::{path::PathBuf, time::Duration};

use mysql::{Conn, DriverError, Error, OptsBuilder, SslOpts, consts::CapabilityFlags};
use percent_encoding::percent_decode_str;
use piton_core::StoreError;

/// How long one attempt to connect may take.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a server may take over one statement, before it is taken to hang.
pub const ANSWER: Duration = Duration::from_secs(30);

/// A server that is gone without a word is noticed after about this long: less than a lease.
const IDLE_MS: u32 = 10_000;
const BETWEEN_SECONDS: u32 = 3;
const PROBES: u32 = 3;

/// The database where the URL names none.
const DATABASE: &str = "piton";

/// Whether TLS is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tls {
    Disabled,
    /// If the server can.
    Preferred,
    Required,
    VerifyIdentity,
}

/// Where a database is and how it is reached.
#[derive(Clone)]
pub struct Address {
    user: String,
    password: Option<String>,
    host: String,
    port: u16,
    socket: Option<String>,
    pub(super) database: String,
    /// The URL names no database: `piton` may be made.
    pub(super) may_make_database: bool,
    tls: Tls,
    authorities: Option<PathBuf>,
}

/// An environment variable, if it is set.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Address {
    /// Reads a URL; what it leaves out comes from the environment.
    ///
    /// # Errors
    /// [`StoreError::Refused`], which says how it is written and repeats no part of it.
    pub fn parse(url: &str, environment: Environment<'_>) -> Result<Self, StoreError> {
        let (_, rest) = url.split_once("://").ok_or_else(unreadable)?;
        let (server, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (server, database) = server.split_once('/').unwrap_or((server, ""));
        let (account, host) = server.rsplit_once('@').unwrap_or(("", server));
        // A password with a character that had to be encoded lies in another place.
        let account_is_odd = account.contains(['@', '#', ' ']) || account.matches(':').count() > 1;
        if account_is_odd || [database, query].iter().any(|part| part.contains(['@', '/', '#'])) {
            return Err(unreadable());
        }
        let (user, password) = match account.split_once(':') {
            Some((user, password)) => (user, Some(decoded(password)?)),
            None => (account, None),
        };
        let (host, port) = host_of(host, environment)?;
        let user = if user.is_empty() { environment("USER") } else { Some(decoded(user)?) };
        let database = decoded(database)?;
        let mut address = Self {
            user: user.unwrap_or_default(),
            password: password.or_else(|| environment("MYSQL_PWD")),
            host,
            port,
            socket: None,
            may_make_database: database.is_empty(),
            database: if database.is_empty() { DATABASE.to_owned() } else { database },
            tls: Tls::Preferred,
            authorities: None,
        };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(unreadable)?;
            address.set(key, decoded(value)?)?;
        }
        Ok(address)
    }

    fn set(&mut self, key: &str, value: String) -> Result<(), StoreError> {
        match key {
            "ssl-mode" | "sslmode" => self.tls = tls_of(&value)?,
            "ssl-ca" | "sslrootcert" => self.authorities = Some(value.into()),
            "socket" => self.socket = Some(value),
            key => {
                let what = format!(
                    "the address of the MySQL server has a setting '{key}' that is not known: \
                     known are ssl-mode, ssl-ca and socket"
                );
                return Err(StoreError::Refused { what });
            }
        }
        Ok(())
    }

    /// The address for people, without the password.
    pub fn shown(&self) -> String {
        let Self { user, host, port, database, .. } = self;
        let host = if host.contains(':') { &format!("[{host}]") } else { host };
        let host = self.socket.as_ref().map_or_else(|| format!("{host}:{port}"), Clone::clone);
        format!("mysql://{user}@{host}/{database}")
    }

    /// The database, where the URL names one.
    pub fn database(&self) -> Option<&str> {
        (!self.may_make_database).then_some(&*self.database)
    }

    /// Connects, with TLS as the URL asks for it. No database is chosen yet. `set` has the last
    /// word on the options.
    ///
    /// # Errors
    /// What the client or the server says.
    pub fn connect(&self, set: impl Fn(OptsBuilder) -> OptsBuilder) -> Result<Conn, Error> {
        // Where nobody has chosen who does the cryptography, the client would not know.
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        match Conn::new(set(self.options(self.tls != Tls::Disabled))) {
            Err(Error::DriverError(DriverError::TlsNotSupported)) if self.tls == Tls::Preferred => {
                Conn::new(set(self.options(false)))
            }
            answer => answer,
        }
    }

    /// How to connect, with TLS or without. The database is chosen later, once it is there.
    fn options(&self, with_tls: bool) -> OptsBuilder {
        let is_checked = self.tls == Tls::VerifyIdentity;
        let tls = SslOpts::default()
            .with_root_cert_path(self.authorities.clone())
            .with_danger_accept_invalid_certs(!is_checked)
            .with_danger_skip_domain_validation(self.tls != Tls::VerifyIdentity);
        OptsBuilder::new()
            .ip_or_hostname(Some(&self.host))
            .tcp_port(self.port)
            .socket(self.socket.clone())
            // A way past the network is taken only when it is asked for.
            .prefer_socket(self.socket.is_some())
            .user(Some(&self.user))
            .pass(self.password.clone())
            .ssl_opts(with_tls.then_some(tls))
            .tcp_connect_timeout(Some(CONNECT))
            .read_timeout(Some(ANSWER))
            .write_timeout(Some(ANSWER))
            .tcp_keepalive_time_ms(Some(IDLE_MS))
            .tcp_keepalive_probe_interval_secs(Some(BETWEEN_SECONDS))
            .tcp_keepalive_probe_count(Some(PROBES))
            .stmt_cache_size(128)
            .additional_capabilities(CapabilityFlags::CLIENT_FOUND_ROWS)
    }
}

fn unreadable() -> StoreError {
    let what = "the address of the MySQL server cannot be read: write \
        mysql://USER:PASSWORD@HOST:PORT/DATABASE, and in the password %40 for @, %3A for :, \
        %2F for /, %3F for ?, %23 for # and %25 for %"
        .to_owned();
    StoreError::Refused { what }
}

fn decoded(part: &str) -> Result<String, StoreError> {
    let decoded = percent_decode_str(part).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| unreadable())
}

fn host_of(server: &str, environment: Environment<'_>) -> Result<(String, u16), StoreError> {
    let (host, port) = match server.strip_prefix('[') {
        // An address of IPv6 stands in brackets.
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(unreadable)?;
            (host, port.strip_prefix(':'))
        }
        None => match server.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (server, None),
        },
    };
    let host = if host.is_empty() { environment("MYSQL_HOST") } else { Some(decoded(host)?) };
    let port = port.map(str::to_owned).or_else(|| environment("MYSQL_TCP_PORT"));
    let port = port.map_or(Ok(3306), |port| port.parse().map_err(|_| unreadable()))?;
    Ok((host.unwrap_or_else(|| "localhost".to_owned()), port))
}

fn tls_of(mode: &str) -> Result<Tls, StoreError> {
    match mode.to_ascii_lowercase().replace('-', "_").as_str() {
        "disabled" | "disable" => Ok(Tls::Disabled),
        "preferred" | "prefer" => Ok(Tls::Preferred),
        "required" | "require" => Ok(Tls::Required),
        "verify_ca" => Err(StoreError::Refused {
            // The driver has no way to trust one authority alone.
            what: "ssl-mode=verify_ca would trust whoever has a certificate of any public \
                   authority: write verify_identity, which looks at the server's name, too"
                .to_owned(),
        }),
        "verify_identity" | "verify_full" => Ok(Tls::VerifyIdentity),
        _ => {
            let what = format!(
                "ssl-mode is '{mode}': it can be disabled, preferred, required or \
                 verify_identity"
            );
            Err(StoreError::Refused { what })
        }
    }
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
            ("mysql://ann:s3cret@db.example:3307/app", "mysql://ann@db.example:3307/app"),
            ("mysql://ann:s3%40cret@db.example", "mysql://ann@db.example:3306/piton"),
            ("mariadb://ann:s3cret@[::1]:3307/?ssl-mode=REQUIRED", "mysql://ann@[::1]:3307/piton"),
            (
                "mysql://ann:s3cret@h/app?socket=%2Frun%2Fmysqld.sock",
                "mysql://ann@/run/mysqld.sock/app",
            ),
        ] {
            let address = parse(url).map_err(|e| e.to_string()).unwrap();
            assert_eq!(address.shown(), shown, "{url}");
            assert!(address.password.is_some_and(|password| password.starts_with("s3")));
        }
    }

    #[test]
    fn no_error_tells_a_piece_of_a_password() {
        for url in [
            "mysql://ann:s3@cret@h/app",
            "mysql://ann:s3:cret@h/app",
            "mysql://ann:s3?cret=1@h/app",
            "mysql://ann:s3/cret@h/app",
            "mysql://ann:s3#cret@h/app",
            "mysql://ann:s3%FFcret@h/app",
            "mysql://ann:s3cret@h:port/app",
            "mysql://ann:s3cret@h/app?ssl-mode=maybe",
            "mysql://ann:s3cret@h/app?compress=zlib",
        ] {
            let told = parse(url).map(|address| address.shown()).unwrap_err().to_string();
            assert!(!told.contains("cret") && !told.contains("s3"), "{url}: {told}");
        }
    }

    #[test]
    fn the_environment_fills_in_what_is_left_out() {
        let environment = |name: &str| match name {
            "MYSQL_PWD" => Some("s3cret".to_owned()),
            "MYSQL_HOST" => Some("db.example".to_owned()),
            "MYSQL_TCP_PORT" => Some("3307".to_owned()),
            "USER" => Some("ann".to_owned()),
            _ => None,
        };
        let left_out = Address::parse("mysql:///app", &environment).ok().unwrap();
        assert_eq!(left_out.shown(), "mysql://ann@db.example:3307/app");
        assert_eq!(left_out.password.as_deref(), Some("s3cret"));
        let own = Address::parse("mysql://bob:own@h:1/x", &environment).ok().unwrap();
        assert_eq!(
            (own.shown().as_str(), own.password.as_deref()),
            ("mysql://bob@h:1/x", Some("own"))
        );
    }
}
