//! The MySQL sink from outside: the real program on real servers, MySQL and MariaDB, both of which
//! die, hang and come back, and an offline checker that reads only the source's and the tables'
//! data.
//!
//! The numbers are the invariants of ARCHITECTURE.md.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod kills;
mod place;
mod refusals;
mod server;
