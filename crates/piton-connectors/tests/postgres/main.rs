//! The PostgreSQL sink and source, against real servers.
//!
//! The numbers are the invariants of ARCHITECTURE.md.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod deletes;
mod gone;
mod place;
mod poll;
mod ranges;
mod refusals;
mod rows;
mod source;
mod values;
