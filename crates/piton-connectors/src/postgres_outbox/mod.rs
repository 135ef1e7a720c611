//! The source `postgres_outbox`: messages that an application appends to a table in its own
//! transactions, relayed in order.
//!
//! - [`settings`]: what a user types; [`position`]: where a message stands;
//! - [`statements`]: what is asked of the database; [`ddl`]: the table; [`shape`]: a live one.

mod ddl;
pub mod position;
pub mod settings;
mod shape;
mod statements;

pub use ddl::ddl;
pub use position::OutboxPosition;
pub use settings::OutboxSettings;
