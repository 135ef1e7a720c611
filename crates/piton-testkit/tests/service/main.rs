//! Real servers as tests get them.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cut;
mod postgres;
