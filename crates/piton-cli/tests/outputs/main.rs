//! What the program says to people, word by word. Each snapshot is a session as it looks on a
//! terminal: `! ` before a line of standard error, the exit code where it is not 0. What differs
//! from run to run (times, folders, process ids) is replaced, see `session`.
//!
//! After a change of wording: `INSTA_UPDATE=always cargo test -p piton-cli --test outputs`, and look
//! at the difference.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![cfg(unix)]

mod configuration;
mod help;
mod jobs;
mod letters;
mod looking;
mod refusals;
mod running;
mod session;
mod steering;
