//! Statements with their mark in one transaction, in real databases: SQLite, PostgreSQL, MySQL and
//! MariaDB are asked the same.
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
mod clears;
mod crashes;
mod endings;
mod limits;
mod once;
mod place;
mod refusals;
mod sessions;
mod values;
