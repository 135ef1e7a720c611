//! Jobs of the program: a migration with real shape under SIGKILL, steps that are skipped, recovered,
//! retried and steered, and commands that outlive whoever started them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(unix)]

mod changed_files;
mod commands;
mod example;
mod failures;
mod for_each;
mod for_each_killed;
mod for_each_pipelines;
mod letters;
mod marks;
mod migration;
mod operators;
mod place;
mod positions;
mod refusals;
mod removal;
mod retries;
mod steering;
#[cfg(target_os = "linux")]
mod terminal;
mod whole_files;
