//! The guarantees, shown from outside: the real program as a child process that is killed, stopped,
//! starved and lied to, and an offline checker that reads only the source's and the sinks' data.
//!
//! The numbers are the invariants of ARCHITECTURE.md.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod claims;
mod configuration;
mod disk;
mod going_back;
mod identity;
mod kills;
mod known_bad;
mod place;
mod receiver;
mod signals;
mod steering;
mod sweep;
