//! The MySQL store passes the suite on a real MariaDB server, and what only a server can show.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(all(unix, feature = "mysql"))]

#[macro_use]
mod mysql_family;
mod owner;
mod scratch;
mod servers;

use std::time::Duration;

use piton_testkit::service::{MariaDb, Options, Server, ServiceError};
use servers::{Place, System, database};

store_suite!(MariaDb);
