//! What was read is not what it was, or the checkpoint is old: files that were rewritten and tables
//! that were altered between a crash and the next run, from outside.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod age;
mod files;
mod jobs;
mod place;
#[cfg(all(feature = "postgres", feature = "mysql"))]
mod servers;
mod tables;
