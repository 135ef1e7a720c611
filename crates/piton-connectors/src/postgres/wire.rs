//! A connection to be used from one thread: the asynchronous client, and the runtime that drives
//! it while somebody waits.
//!
//! The blocking client cannot hold a `COPY` open between two calls, because its writer borrows it;
//! the asynchronous one can. Nothing happens on the connection while nobody waits.

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls};

use super::connect::{ConnectError, Server};

/// A connection and what drives it.
pub(super) struct Wire {
    runtime: Runtime,
    pub(super) client: Client,
}

impl Wire {
    /// Connects.
    pub(super) fn open(server: &Server) -> Result<Self, ConnectError> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| {
            let what = format!("cannot connect to {}: {e}", server.location());
            ConnectError::Unavailable { what }
        })?;
        let client = server.attempt(|config, encryption| {
            runtime.block_on(async {
                let client = match encryption {
                    Some(encryption) => {
                        let (client, connection) = config.connect(encryption).await?;
                        runtime.spawn(connection);
                        client
                    }
                    None => {
                        let (client, connection) = config.connect(NoTls).await?;
                        runtime.spawn(connection);
                        client
                    }
                };
                Ok(client)
            })
        })?;
        Ok(Self { runtime, client })
    }

    /// Waits for what the client does.
    pub(super) fn wait<T>(&self, doing: impl Future<Output = T>) -> T {
        self.runtime.block_on(doing)
    }
}
