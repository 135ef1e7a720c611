//! The source `postgres_outbox`: messages that an application appends to a table in its own
//! transactions, relayed in order.
//!
//! - [`settings`]: what a user types; [`position`]: where a message stands.

pub mod position;
pub mod settings;

pub use position::OutboxPosition;
pub use settings::OutboxSettings;
