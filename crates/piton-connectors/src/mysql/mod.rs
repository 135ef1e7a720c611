//! MySQL, and MariaDB, which descends from it.
//!
//! - `connect`: from a URL to a session; `errors`: what the server says, in terms of what to do
//!   about it;
//! - [`settings`]: what a user types;
//! - [`sink`]: fence, read, begin, forget; `transaction`: write and commit; `holder`: who is in the
//!   way;
//! - `table`: a target as it is; `create`: making it; `plan`: the statements for its records;
//!   `encode`: values as SQL writes them; `writer`: rows on their way; `stage`: rows for a table whose
//!   triggers must not run in vain;
//! - [`source`], [`position`]: reading by a key; `reader`: in one go, or again and again; `keyset`:
//!   its statements; `cursor`, `rows` and `decode`: rows into a batch.

pub(crate) mod connect;
mod create;
mod cursor;
mod decode;
mod encode;
pub(crate) mod errors;
mod holder;
mod keyset;
mod plan;
pub mod position;
mod reader;
mod rows;
pub mod settings;
pub mod sink;
pub mod source;
mod stage;
mod table;
mod transaction;
mod writer;

use crate::table_name as name;

pub use position::MySqlPosition;
pub use settings::MySqlSettings;
pub use sink::{History, MySqlSink};
pub use source::MySqlSource;
