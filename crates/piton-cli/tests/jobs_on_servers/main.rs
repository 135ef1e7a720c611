//! Jobs whose checkpoints are on a database server: several machines share them, commands outlive
//! whoever started them, the server goes away and comes back. The target of the migration and of
//! statements is a server's database, too.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod commands;
mod migration;
mod outages;
mod parallel;
mod place;
mod scripts;
mod statements;
