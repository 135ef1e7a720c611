//! A connection whose socket is known, so that another process can inherit it: the client itself
//! does not tell which it has.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream, lookup_host},
    time::timeout,
};
use tokio_postgres::{
    Client, Config, Error,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    address::{Address, CONNECT},
    attempt::{Driver, driver, is_about_tls},
    errors,
};
use crate::sql::{Result, Setback};

/// A connection, what drives it, and its socket once more.
pub(super) type Connected = (Client, Driver, OwnedFd);

/// One of the servers that an address may mean.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// By which its certificate is checked.
    name: String,
    at: At,
}

#[derive(Debug, Clone)]
enum At {
    Network(String, u16),
    Folder(PathBuf, u16),
}

impl Address {
    /// The servers that it may mean, in their order.
    pub(super) fn places(&self) -> Vec<Place> {
        let (hosts, addresses) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let ports = self.config.get_ports();
        let place = |n: usize| {
            let port = ports.get(n).or(ports.first()).map_or(5432, |port| *port);
            let (name, at) = match hosts.get(n)? {
                Host::Tcp(name) => (name.clone(), At::Network(name.clone(), port)),
                Host::Unix(folder) => (String::new(), At::Folder(folder.clone(), port)),
            };
            let at = match addresses.get(n) {
                Some(address) => At::Network(address.to_string(), port),
                None => at,
            };
            Some(Place { name, at })
        };
        (0..hosts.len()).filter_map(place).collect()
    }

    /// Connects to one of them, with TLS as the URL asks for it.
    pub(super) async fn connect_to(&self, place: &Place) -> Result<Connected> {
        let mode = self.config.get_ssl_mode();
        let connector = self.tls.connector().map_err(Setback::Refused)?;
        let error = match self.over(place, &self.config, &connector).await? {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        // As everywhere else: what fails with TLS is tried without, if none was demanded.
        if mode == SslMode::Prefer && is_about_tls(&error) {
            let mut plain = self.config.clone();
            plain.ssl_mode(SslMode::Disable);
            if let Ok(connected) = self.over(place, &plain, &connector).await? {
                return Ok(connected);
            }
        }
        Err(errors::of(&error, false).into())
    }

    async fn over(
        &self,
        place: &Place,
        config: &Config,
        connector: &MakeRustlsConnect,
    ) -> Result<Result<Connected, Error>> {
        let limit = config.get_connect_timeout().copied().unwrap_or(CONNECT);
        let lost = |error: io::Error| Setback::Lost(error.to_string());
        let silent = |_| Setback::Lost(format!("nobody answered within {} s", limit.as_secs()));
        match &place.at {
            At::Folder(folder, port) => {
                let path = folder.join(format!(".s.PGSQL.{port}"));
                let stream = timeout(limit, UnixStream::connect(path)).await.map_err(silent)?;
                let stream = stream.map_err(lost)?;
                timeout(limit, speak(stream, place, config, connector)).await.map_err(silent)?
            }
            At::Network(name, port) => {
                let connect = async {
                    let found: Vec<_> = lookup_host((name.as_str(), *port)).await?.collect();
                    TcpStream::connect(&*found).await
                };
                let stream = timeout(limit, connect).await.map_err(silent)?.map_err(lost)?;
                stream.set_nodelay(true).map_err(lost)?;
                timeout(limit, speak(stream, place, config, connector)).await.map_err(silent)?
            }
        }
    }
}

async fn speak<S>(
    stream: S,
    place: &Place,
    config: &Config,
    connector: &MakeRustlsConnect,
) -> Result<Result<Connected, Error>>
where
    S: AsyncRead + AsyncWrite + AsFd + Unpin + Send + 'static,
{
    let socket = stream.as_fd().try_clone_to_owned();
    let socket = socket.map_err(|error| Setback::Unusable(error.to_string()))?;
    let mut connector = connector.clone();
    let tls = MakeTlsConnect::<S>::make_tls_connect(&mut connector, &place.name);
    let tls = tls.unwrap_or_else(|never| match never {});
    let connected = config.connect_raw(stream, tls).await;
    Ok(connected.map(|(client, connection)| (client, driver(connection, |_| {}), socket)))
}
