//! Real database servers for tests, each gone when the test is.
//!
//! A test that mocks a database proves what its author believed about the database. So a test that
//! is about PostgreSQL starts PostgreSQL: in a fresh temporary folder, on a port of 127.0.0.1, and
//! may stop it, kill it, freeze it and start it again. What the machine has is used; what it lacks
//! is installed or fetched.
//!
//! ```no_run
//! use piton_testkit::service::{self, Postgres};
//!
//! let Some(server) = service::needed(Postgres::shared()) else { return };
//! let url = server.database().unwrap();
//! ```
//!
//! [`Cut`] stands between a client and any of them, and loses what it is told to lose.
//!
//! A server belongs to the process that started it. However that process ends, by SIGKILL too, a
//! small watching shell sees its end of a pipe close, ends the server, and removes the folder
//! (`watch.sh`). A server in a `static`, as [`Postgres::shared`] keeps one, is ended the same way.

mod authority;
mod cut;
mod error;
mod package;
mod port;
mod postgres;
mod process;
mod server;

use std::borrow::Borrow;

pub use cut::Cut;
pub use error::ServiceError;
pub use postgres::Postgres;
pub use server::{Options, Server};

/// The server, or none where this machine cannot have one: the test then returns, and one line on
/// standard error says what was skipped.
///
/// # Panics
/// Where a server must be had: when `CI` or `PITON_REQUIRE_SERVICES` is in the environment. And
/// always when a server was had but did not start or answer: that is a defect, not a lack.
#[expect(clippy::panic, reason = "this is how a test fails")]
pub fn needed<T, E: Borrow<ServiceError>>(server: Result<T, E>) -> Option<T> {
    let error = match server {
        Ok(server) => return Some(server),
        Err(error) => error,
    };
    let error = error.borrow();
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let required = ["CI", "PITON_REQUIRE_SERVICES"].into_iter().find(is_set);
    match (error, required) {
        (ServiceError::Unavailable { .. }, None) => {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            eprintln!("SKIPPED {test}: {error}");
            None
        }
        (ServiceError::Unavailable { .. }, Some(variable)) => {
            panic!("{error} (it is required: {variable} is set)")
        }
        _ => panic!("{error}"),
    }
}
