//! An outbox in PostgreSQL, handled with its checkpoint in one transaction.
//!
//! The store is in the program's own database (its schema `piton`), and so is the outbox. So the
//! handler's effects and the checkpoint can be one transaction: [`Processor`] is the loop that does
//! it right, [`Claim::save_in`] the piece for a loop of one's own. What moves the checkpoint is a
//! function of the database, the one that programs in other languages call, too.
//!
//! A source without a comparable order cannot be read by position. This is one that has it:
//!
//! ```
//! #[derive(Clone, PartialEq, PartialOrd, serde::Serialize, serde::Deserialize)]
//! struct Offset(u64);
//!
//! impl piton::Position for Offset {
//!     const KIND: &'static str = "offset";
//! }
//! ```
//!
//! and this one does not, and does not compile:
//!
//! ```compile_fail
//! #[derive(Clone, serde::Serialize, serde::Deserialize)]
//! struct DeliveryTag(u64); // RabbitMQ: redelivered in any order, so it has no `PartialOrd`
//!
//! impl piton::Position for DeliveryTag {
//!     const KIND: &'static str = "rabbitmq";
//! }
//! ```

mod ahead;
mod claim;
mod error;
mod guard;
mod joins;
mod position;
mod processor;
mod pulse;
mod reader;
mod running;
mod work;

use std::{path::Path, sync::Arc};

use piton_core::{Store, StoreError};
use piton_stores::postgres::is_lost;
use tokio_postgres::Notification;

pub use self::{
    claim::Claim,
    error::ProcessorError,
    joins::{InTransaction, Move, Moved},
    position::{Fingerprint, OutboxPosition},
    processor::{CheckpointOrder, Processor},
    reader::{Message, Start},
};

/// What every reader of an outbox is made of: for the source `postgres_outbox` of pipelines, no
/// promise to anybody else.
#[doc(hidden)]
pub mod outbox {
    pub use super::{
        position::{Xid, hash_of},
        pulse::Pulse,
    };
}

/// A PostgreSQL database with a store, the program's tables and the outbox.
#[derive(Clone)]
pub struct Database {
    url: String,
    store: Arc<dyn Store>,
}

impl Database {
    /// Opens the store in the database that a URL names, and makes it if there is none. It blocks
    /// while it connects.
    ///
    /// # Errors
    /// As [`open`](crate::open).
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let store = piton_stores::open(url, Path::new("."), piton_stores::Mode::Create)?;
        Ok(Self { url: url.to_owned(), store })
    }

    /// The store, for [`Claim::open`] and for whoever looks at it.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// A connection to the database, driven on the present runtime of tokio.
    ///
    /// # Errors
    /// What the server said.
    pub async fn connect(&self) -> Result<tokio_postgres::Client, StoreError> {
        piton_stores::postgres::connect(&self.url).await
    }

    /// A connection that calls `heard` with the channel and the words of each notification.
    async fn connect_and_hear(
        &self,
        mut heard: impl FnMut(&str, &str) + Send + 'static,
    ) -> Result<tokio_postgres::Client, StoreError> {
        let heard = move |word: &Notification| heard(word.channel(), word.payload());
        piton_stores::postgres::connect_and_hear(&self.url, heard).await
    }
}
