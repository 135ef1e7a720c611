//! PostgreSQL.
//!
//! - [`connect`]: from a URL to a connection; `wire`: one that is used from one thread;
//! - [`settings`]: what a user types; names of tables, which a record may choose, are read by the
//!   crate's `table_name`;
//! - [`sink`]: fence, read, begin, forget; `transaction`: write and commit; `holder`: who is in the
//!   way;
//! - `table`: a target as it is, and creating it; `plan`: the statements for its records; `encode`:
//!   values as text; `writer`: rows on their way;
//! - [`source`], [`position`], `reader`: reading by a key; `keyset`: its statements; `ranges`: a
//!   table in several parts; `cursor` and `decode`: rows into a batch; `horizon`: who may still add
//!   one;
//! - `errors`: what PostgreSQL says, in terms of what to do about it.

pub mod connect;
mod cursor;
mod decode;
mod encode;
pub(crate) mod errors;
pub(crate) mod holder;
mod horizon;
mod keyset;
mod plan;
pub mod position;
mod ranges;
mod reader;
pub mod settings;
pub mod sink;
pub mod source;
mod table;
mod transaction;
pub(crate) mod wire;
mod writer;

use crate::table_name as name;

pub use connect::{ConnectError, Server};
pub use position::PostgresPosition;
pub use settings::PostgresSettings;
pub use sink::{History, PostgresSink};
pub use source::PostgresSource;
