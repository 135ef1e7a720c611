//! Stores on a database server from outside: the real program, real servers, several machines.
//!
//! A store in a file is what every other test uses. What a server adds is told here: it goes away
//! and comes back, connections are cut, others share it, it asks for a password. The numbers are
//! the invariants of ARCHITECTURE.md.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod mistakes;
mod outages;
mod place;
mod steering;
mod takeover;
