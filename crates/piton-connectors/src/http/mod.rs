//! HTTP: a sink that posts records as JSON.
//!
//! A 2xx is the receiver's promise that the records of a request are durable. Until it comes
//! nobody knows, so a request is repeated, and a crash repeats what was posted since the last
//! checkpoint: at least once. Every record carries its stable id and every request an
//! idempotency key made of them, by which a receiver recognises a repeat.

pub mod settings;
pub mod sink;
#[cfg(test)]
mod tests;

pub use settings::HttpSettings;
pub use sink::HttpSink;
