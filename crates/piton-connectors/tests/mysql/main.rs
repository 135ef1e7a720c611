//! The MySQL sink and source, against real servers: MySQL, and MariaDB.
//!
//! The numbers are the invariants of ARCHITECTURE.md.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod gone;
mod place;
mod refusals;
mod rows;
mod source;
mod triggers;
mod values;
