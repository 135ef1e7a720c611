//! Commands as source and sink, from outside: killed, stopped, failing, loud, and against a REST API.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod endings;
mod kills;
mod place;
mod rest;
