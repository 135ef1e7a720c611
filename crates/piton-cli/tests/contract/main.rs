//! What a user is promised, seen from outside: the real program on small files, its exit codes, what
//! it says and what it leaves behind. Crashes are in `tests/crash`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![cfg(unix)]

mod beginning;
mod between_runs;
mod folder;
mod jobs;
mod looking;
mod steering;
