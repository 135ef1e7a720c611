//! The PostgreSQL store passes the suite on a real server, and what only a server can show.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(all(unix, feature = "postgres"))]

mod owner;
mod scratch;
mod servers;

use std::{
    path::Path,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use piton_core::StoreError;
use piton_stores::Mode;
use piton_testkit::service::{Options, Postgres, Server, ServiceError};
use servers::{Place, System, account, database, open, own, refused, says};

struct Pg;

impl System for Pg {
    // With the end of the message: a level of isolation is named like it, too.
    const COMMIT: (&str, &str) = ("COMMIT\0", "COMMIT");
    const SAVED: &str = "SELECT 1";
    const PLAIN: &str = "?sslmode=disable";
    const FRESH: Duration = Duration::ZERO;

    /// Of the machine's newest version, or of the major version in `PITON_TEST_POSTGRES`.
    fn options() -> Options {
        match std::env::var("PITON_TEST_POSTGRES") {
            Ok(version) => Postgres::options().version(version.parse().unwrap()),
            Err(_) => Postgres::options(),
        }
    }

    fn shared() -> Result<&'static Server, &'static ServiceError> {
        static SHARED: OnceLock<Result<Server, ServiceError>> = OnceLock::new();
        SHARED.get_or_init(|| Self::options().line("fsync = off").start()).as_ref()
    }

    fn shell(url: &str, sql: &str) -> Result<(), String> {
        let mut client = postgres::Client::connect(url, postgres::NoTls).unwrap();
        let ran = client.batch_execute(&format!("SET search_path = piton, public; {sql}"));
        ran.map_err(|error| error.as_db_error().map_or(error.to_string(), ToString::to_string))
    }
}

piton_stores::conformance!(Place<Pg>);

#[test]
fn the_model_and_the_postgres_store_agree() {
    piton_stores::conformance::model::run::<Place<Pg>>(40);
}

/// The other process.
#[test]
fn owner() {
    owner::serve();
}

#[test]
fn a_killed_owner_is_replaced_at_once() {
    let Some(url) = database::<Pg>() else { return };
    owner::is_replaced_at_once_when_killed(&url);
}

#[test]
fn a_stopped_owner_is_fenced_when_it_wakes() {
    let Some(url) = database::<Pg>() else { return };
    owner::is_fenced_when_it_wakes(&url);
}

macro_rules! on_the_server {
    ($($test:ident,)*) => { $(
        #[test]
        fn $test() {
            servers::$test::<Pg>();
        }
    )* };
}

on_the_server! {
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
}

#[test]
fn what_is_missing_is_damage() {
    let more = [
        ("DROP TRIGGER checkpoint_deleted ON checkpoints", "open"),
        ("ALTER TABLE checkpoints DISABLE TRIGGER checkpoint_updated", "open"),
        ("DROP FUNCTION save", "open"),
        ("DROP TABLE meta", "open"),
    ];
    servers::what_is_missing_is_damage::<Pg>("SET search_path = piton, pg_temp", &more);
}

#[test]
fn what_is_no_store_of_this_format_is_refused() {
    let foreign = "CREATE SCHEMA piton; CREATE TABLE piton.climbs (id bigint)";
    servers::what_is_no_store_of_this_format_is_refused::<Pg>(foreign);
}

/// A schema is made whole or not at all, and by whoever may.
#[test]
fn what_is_wrong_with_an_account_is_named() {
    let password = Pg::options().password("s3cret");
    let Some((server, url)) = own::<Pg>(password) else { return };
    let name = url.rsplit('/').next().unwrap();
    says(&refused(&account(&url, "postgres:s3cret2"), Mode::Create), &["password", "PGPASSWORD"]);
    says(&refused(&account(&url, "nobody:s3cret"), Mode::Create), &["nobody"]);
    let elsewhere = format!("{}_not", open(&url, Mode::Create).unwrap().location());
    let elsewhere = account(&elsewhere, "postgres:s3cret");
    says(&refused(&elsewhere, Mode::Create), &["does not exist", "create the database"]);

    server.administer("CREATE USER ann PASSWORD 's3cret'").unwrap();
    let ann = account(&url, "ann:s3cret");
    says(&refused(&ann, Mode::Existing), &["permission denied", "grant"]);
    let fresh = account(&server.database().unwrap(), "ann:s3cret");
    let denied = refused(&fresh, Mode::Create);
    says(&denied, &["permission denied", "CREATE on its database", "schema `piton`"]);
    // Nothing was made, and who may, may now: a schema of its user's own is enough.
    let fresh_name = fresh.rsplit('/').next().unwrap();
    assert_ne!(name, fresh_name);
    let missing = refused(&fresh, Mode::Existing);
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing:?}");
    let by_admin = account(&fresh, "postgres:s3cret");
    Pg::shell(&by_admin, "CREATE SCHEMA piton AUTHORIZATION ann").unwrap();
    let store = open(&fresh, Mode::Create).unwrap();
    assert!(!store.location().contains("s3cret"), "{}", store.location());
    scratch::claim(&*store);
}

/// A replica can be read, but it cannot say whether an owner lives.
#[test]
fn a_server_that_only_reads_is_named() {
    let Some((mut server, url)) = own::<Pg>(Pg::options()) else { return };
    drop(open(&url, Mode::Create).unwrap());
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    let folder: String = client.query_one("SHOW data_directory", &[]).unwrap().get(0);
    drop(client);
    server.stop().unwrap();
    std::fs::write(Path::new(&folder).join("standby.signal"), "").unwrap();
    thread::scope(|scope| {
        let starting = scope.spawn(move || server.start_again().map(|()| server));
        let begin = Instant::now();
        for mode in [Mode::Existing, Mode::Create] {
            let error = loop {
                let error = refused(&url, mode).to_string();
                if error.contains("only reads") || begin.elapsed() > Duration::from_secs(30) {
                    break error;
                }
            };
            assert!(error.contains("only reads") && error.contains("primary"), "{error}");
        }
        Pg::shell(&url, "SELECT pg_promote()").unwrap();
        let _server = starting.join().unwrap().unwrap();
        assert!(open(&url, Mode::Create).is_ok());
    });
}

/// TLS as `sslmode` says, and authorities from the file that is named.
#[test]
fn tls_is_what_sslmode_asks_for() {
    let Some((server, url)) = own::<Pg>(Pg::options().tls()) else { return };
    let (server_url, _) = url.split_once('?').unwrap();
    let authority = server.authority().unwrap();
    let with = |query: &str| format!("{server_url}?{query}");
    let rooted = |mode: &str| with(&format!("sslmode={mode}&sslrootcert={}", authority.display()));
    for url in [
        with("sslmode=prefer"),
        with("sslmode=require"),
        rooted("require"),
        rooted("verify-ca"),
        rooted("verify-full"),
        rooted("verify-full").replace("127.0.0.1", "localhost"),
    ] {
        assert!(open(&url, Mode::Create).is_ok(), "{url}");
    }
    says(&refused(&with("sslmode=disable"), Mode::Create), &["no encryption"]);
    for unknown in ["verify-full", "verify-ca"] {
        let error = refused(&with(&format!("sslmode={unknown}")), Mode::Create);
        says(&error, &["certificate"]);
    }
    let Some((_other, other_url)) = own::<Pg>(Pg::options().tls()) else { return };
    let other = format!(
        "{}?{}",
        other_url.split_once('?').unwrap().0,
        rooted("require").split_once('?').unwrap().1
    );
    says(&refused(&other, Mode::Create), &["certificate"]);
    let nowhere = refused(&with("sslmode=verify-full&sslrootcert=/none"), Mode::Create);
    says(&nowhere, &["/none"]);
}
