//! MySQL, and MariaDB, which descends from it.
//!
//! - `connect`: from a URL to a session; `errors`: what the server says, in terms of what to do
//!   about it;
//! - [`settings`]: what a user types;
//! - [`sink`]: fence, read, begin, forget; `transaction`: write and commit; `holder`: who is in the
//!   way;
//! - `table`: a target as it is; `create`: making it; `plan`: the statements for its records;
//!   `encode`: values as SQL writes them; `writer`: rows on their way.

mod connect;
mod create;
mod encode;
mod errors;
mod holder;
mod plan;
pub mod settings;
pub mod sink;
mod table;
mod transaction;
mod writer;

use crate::table_name as name;

pub use settings::MySqlSettings;
pub use sink::{History, MySqlSink};
