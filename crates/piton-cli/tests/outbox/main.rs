//! A relay from an outbox, seen from outside: the real program against real servers, killed, cut
//! off and lied to, and judged by what the outbox and the sinks hold.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod beginning;
mod kills;
mod outage;
mod place;
mod refusals;
mod telling;
mod traps;
