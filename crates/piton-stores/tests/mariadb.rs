//! The MySQL store passes the suite on a real MariaDB server, and what only a server can show.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(all(unix, feature = "mysql"))]

mod mysql_family;
mod owner;
mod scratch;
mod servers;

use std::time::Duration;

use piton_testkit::service::{MariaDb, Options, Server, ServiceError};
use servers::{Place, System, database};

struct Db;

impl System for Db {
    const COMMIT: (&str, &str) = ("\u{3}COMMIT", "");
    const SAVED: &str = "";
    const PLAIN: &str = "?ssl-mode=disabled";
    const FRESH: Duration = Duration::from_millis(1100);

    fn options() -> Options {
        MariaDb::options()
    }

    fn shared() -> Result<&'static Server, &'static ServiceError> {
        mysql_family::settled(MariaDb::shared())
    }

    fn shell(url: &str, sql: &str) -> Result<(), String> {
        mysql_family::shell(url, sql)
    }
}

piton_stores::conformance!(Place<Db>);

#[test]
fn the_model_and_the_store_agree() {
    piton_stores::conformance::model::run::<Place<Db>>(25);
}

/// The other process.
#[test]
fn owner() {
    owner::serve();
}

#[test]
fn a_killed_owner_is_replaced_at_once() {
    let Some(url) = database::<Db>() else { return };
    owner::is_replaced_at_once_when_killed(&url);
}

#[test]
fn a_stopped_owner_is_fenced_when_it_wakes() {
    let Some(url) = database::<Db>() else { return };
    owner::is_fenced_when_it_wakes(&url);
}

macro_rules! on_the_server {
    ($($of:ident [$($test:ident,)*])*) => { $($(
        #[test]
        fn $test() {
            $of::$test::<Db>();
        }
    )*)* };
}

on_the_server! {
    servers [
    who_creates_at_once_agrees_on_one_store,
    many_owners_of_one_pipeline,
    a_restart_takes_no_claim_away,
    a_call_waits_for_a_server_that_is_restarted,
    a_server_that_hangs_is_noticed,
    a_save_in_doubt_is_fenced_and_read,
    a_commit_in_doubt_is_fenced_and_read,
    what_may_be_repeated_is_repeated,
    an_idle_owner_comes_back_by_itself,
    a_thousand_partitions_are_one_round_trip,
    names_are_what_they_are,
    any_record_can_be_set_aside,
    deleting_a_checkpoint_by_hand_is_a_reset,
    what_must_not_be_done_by_hand_says_what_to_do_instead,
    ]
    mysql_family [
    what_is_missing_is_damage,
    what_is_no_store_of_this_format_is_refused,
    what_was_not_finished_is_finished,
    what_is_wrong_with_an_account_is_named,
    a_server_that_only_reads_is_named,
    tls_is_what_ssl_mode_asks_for,
    ]
}
