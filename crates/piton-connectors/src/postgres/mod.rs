//! PostgreSQL.
//!
//! - [`connect`]: from a URL to a connection; `tls`: who is at the other end of it.

pub mod connect;
mod tls;

pub use connect::{ConnectError, Server};
