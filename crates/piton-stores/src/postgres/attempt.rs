//! An attempt to connect, which ends: a peer that takes the connection and says nothing is given up
//! like one that is not there.

use std::{future::poll_fn, io, pin::Pin, time::Duration};

use piton_core::StoreError;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Error, NoTls, Notification, Socket,
    config::SslMode,
    error::SqlState,
    tls::{MakeTlsConnect, TlsConnect},
};

use super::{address::Address, errors};
use crate::sql::{Setback, Trouble};

/// What drives a connection for as long as it lasts: it is to be spawned.
pub type Driver = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoConnection {
    /// The certificates of authorities cannot be used: it says which, and why.
    #[error("{0}")]
    Authorities(String),
    /// The server, or the network, said so.
    #[error("{}", errors::told(.0))]
    Said(#[source] Error),
    /// Nobody answered within this time.
    #[error("the server did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

impl NoConnection {
    /// What it means for a store.
    pub(super) fn setback(&self) -> Setback {
        match self {
            Self::Authorities(what) => Setback::Refused(what.clone()),
            Self::Said(error) => errors::of(error, false),
            Self::Silent(_) => Setback::Lost(self.to_string()),
        }
    }

    /// The same with the place where it was.
    pub(super) fn at(&self, at: &str) -> StoreError {
        Trouble::from(self.setback()).at(at)
    }
}

impl Address {
    /// Connects, with TLS as the URL asks for it, within `connect_timeout` for each host. Needs a
    /// runtime of tokio with network and time. `heard` is called for each notification that comes
    /// by `LISTEN`, where the connection is driven: it must not block.
    ///
    /// # Errors
    /// [`NoConnection`].
    pub async fn connect(
        &self,
        heard: impl FnMut(Notification) + Send + 'static,
    ) -> Result<(Client, Driver), NoConnection> {
        let patience = self.patience();
        match tokio::time::timeout(patience, self.attempt(heard)).await {
            Ok(connected) => connected,
            Err(_) => Err(NoConnection::Silent(patience)),
        }
    }

    async fn attempt(
        &self,
        heard: impl FnMut(Notification) + Send + 'static,
    ) -> Result<(Client, Driver), NoConnection> {
        if self.config.get_ssl_mode() == SslMode::Disable {
            return by(&self.config, NoTls, heard).await.map_err(NoConnection::Said);
        }
        let connector = self.tls.connector().map_err(NoConnection::Authorities)?;
        match self.config.connect(connector).await {
            Ok((client, connection)) => Ok((client, driver(connection, heard))),
            // As libpq: what fails with TLS is tried without, if none was demanded.
            Err(error) if self.config.get_ssl_mode() == SslMode::Prefer && is_about_tls(&error) => {
                let mut plain = self.config.clone();
                plain.ssl_mode(SslMode::Disable);
                by(&plain, NoTls, heard).await.map_err(|_| NoConnection::Said(error))
            }
            Err(error) => Err(NoConnection::Said(error)),
        }
    }
}

async fn by<T>(
    config: &Config,
    tls: T,
    heard: impl FnMut(Notification) + Send + 'static,
) -> Result<(Client, Driver), Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
    T::TlsConnect: TlsConnect<Socket>,
{
    let (client, connection) = config.connect(tls).await?;
    Ok((client, driver(connection, heard)))
}

pub(super) fn driver<T, S>(
    mut connection: Connection<T, S>,
    mut heard: impl FnMut(Notification) + Send + 'static,
) -> Driver
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(async move {
        while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notification(notification) = message? {
                heard(notification);
            }
        }
        Ok(())
    })
}

/// Whether another attempt without TLS may do better: the handshake failed, or the server takes
/// nobody with TLS.
pub(super) fn is_about_tls(error: &Error) -> bool {
    tls_error(error).is_some()
        || error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

/// What TLS said, if it was that which failed.
pub fn tls_error(error: &Error) -> Option<&rustls::Error> {
    errors::causes(error).find_map(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref())
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
        time::Instant,
    };

    use super::*;

    /// The network takes the connection, and nobody answers.
    #[test]
    fn a_silent_peer_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for mode in ["disable", "prefer", "require"] {
            let url = format!("postgres://ann@127.0.0.1:{port}/x?connect_timeout=1&sslmode={mode}");
            let address = Address::parse(&url, &|_| None).unwrap();
            let begin = Instant::now();
            let error = runtime.block_on(address.connect(|_| {})).err().unwrap();
            assert!(matches!(error, NoConnection::Silent(_)), "{mode}: {error}");
            assert!(begin.elapsed() < Duration::from_secs(5), "{mode}: {:?}", begin.elapsed());
        }
    }

    /// As with libpq: a handshake that fails is the end where TLS was demanded, and else not.
    #[test]
    fn a_failed_handshake_is_done_without_only_where_tls_was_not_demanded() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            for is_plain in [false, true, false] {
                let (mut peer, _) = listener.accept().unwrap();
                let mut asked = [0; 8];
                peer.read_exact(&mut asked).unwrap();
                if is_plain {
                    let mut rest = vec![0; usize::from(asked[3]) - asked.len()];
                    peer.read_exact(&mut rest).unwrap();
                    // Come in; ready.
                    peer.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").unwrap();
                } else {
                    // Yes, TLS; and then something else.
                    peer.write_all(b"S").unwrap();
                    peer.write_all(b"E is the beginning of an error in plain text").unwrap();
                    // Closing with something unread would take it back.
                    let _ = io::copy(&mut peer, &mut io::sink());
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (mode, is_taken) in [("prefer", true), ("require", false)] {
            let url = format!("postgres://ann@{place}/x?sslmode={mode}&connect_timeout=5");
            let address = Address::parse(&url, &|_| None).unwrap();
            let connected = runtime.block_on(address.connect(|_| {}));
            assert_eq!(connected.is_ok(), is_taken, "{mode}: {:?}", connected.err());
        }
        server.join().unwrap();
    }
}
