//! What the tests on MySQL and MariaDB share.

use std::{
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use mysql::{Conn, Opts, OptsBuilder, prelude::Queryable as _};
use piton_core::StoreError;
use piton_stores::Mode;

use crate::servers::{System, account, database, open, own, refused, says};

/// A function of a module is a test on the server.
macro_rules! on_the_server {
    ($($of:ident [$($test:ident,)*])*) => { $($(
        #[test]
        fn $test() {
            $of::$test::<Db>();
        }
    )*)* };
}

/// All that a store on a server of this family has to show; both are asked the same.
macro_rules! store_suite {
    ($server:ident) => {
        struct Db;

        impl System for Db {
            const COMMIT: (&str, &str) = ("\u{3}COMMIT", "");
            const SAVED: &str = "";
            const PLAIN: &str = "?ssl-mode=disabled";
            const FRESH: Duration = Duration::from_millis(1100);

            fn options() -> Options {
                $server::options()
            }

            fn shared() -> Result<&'static Server, &'static ServiceError> {
                mysql_family::settled($server::shared())
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
    };
}

/// A server that has run for some seconds. Of one that was started in this very second it is not
/// known whether a claim is from before.
pub(crate) fn settled<T>(server: T) -> T {
    static STARTED: OnceLock<Instant> = OnceLock::new();
    let age = STARTED.get_or_init(Instant::now).elapsed();
    thread::sleep(Duration::from_secs(2).saturating_sub(age));
    server
}

/// Runs statements as a person with a SQL shell does.
pub(crate) fn shell(url: &str, sql: &str) -> Result<(), String> {
    let options = OptsBuilder::from_opts(Opts::from_url(url).unwrap()).prefer_socket(false);
    let mut conn = Conn::new(options).unwrap();
    // As the store quotes names; a person would write backticks.
    conn.query_drop("SET sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')").unwrap();
    conn.query_drop(sql).map_err(|error| error.to_string())
}

pub(crate) fn what_is_missing_is_damage<S: System>() {
    let more = [
        ("DROP TRIGGER checkpoint_deleted", "open"),
        ("DROP PROCEDURE save", "open"),
        ("DROP TABLE meta", "open"),
        ("TRUNCATE TABLE checkpoints", "load"),
    ];
    crate::servers::what_is_missing_is_damage::<S>("SET @piton_store = 1", &more);
}

pub(crate) fn what_is_no_store_of_this_format_is_refused<S: System>() {
    for foreign in ["CREATE TABLE orders (id INT)", "CREATE TABLE meta (k INT)"] {
        crate::servers::what_is_no_store_of_this_format_is_refused::<S>(foreign);
    }
    // Tables beside those of a store do no harm.
    let Some(url) = database::<S>() else { return };
    shell(&url, "CREATE TABLE climbs (id INT)").unwrap();
    assert!(open(&url, Mode::Create).is_ok());
}

/// A store of which the making was interrupted is no store yet, and is made to the end.
pub(crate) fn what_was_not_finished_is_finished<S: System>() {
    let Some(url) = database::<S>() else { return };
    drop(open(&url, Mode::Create).unwrap());
    shell(&url, "UPDATE meta SET format = 0; DROP TABLE dead_letters; DROP PROCEDURE save")
        .unwrap();
    let missing = refused(&url, Mode::Existing);
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing:?}");
    let store = open(&url, Mode::Create).unwrap();
    let claim = crate::scratch::claim(&*store);
    crate::scratch::advance(&*store, &claim, "0", 2);
}

pub(crate) fn what_is_wrong_with_an_account_is_named<S: System>() {
    let Some((server, url)) = own::<S>(S::options().password("s3cret")) else { return };
    says(&refused(&account(&url, "piton:s3cret2"), Mode::Create), &["denied", "MYSQL_PWD"]);
    let (server_url, name) = url.rsplit_once('/').unwrap();
    let elsewhere = format!("{server_url}/{name}_not");
    says(&refused(&elsewhere, Mode::Create), &["Unknown database", "create the database"]);

    server.administer("CREATE USER ann IDENTIFIED BY 's3cret'").unwrap();
    server.administer(&format!("GRANT SELECT ON {name}.* TO ann")).unwrap();
    let ann = account(&url, "ann:s3cret");
    says(&refused(&ann, Mode::Create), &["denied", "grant"]);
    let missing = refused(&ann, Mode::Existing);
    assert!(matches!(missing, StoreError::Missing { .. }), "nothing was made: {missing:?}");

    // Without a name the database is `piton`, which may be made; who only asks makes nothing.
    let unnamed = format!("{server_url}/");
    let missing = refused(&unnamed, Mode::Existing);
    assert!(matches!(missing, StoreError::Missing { .. }), "{missing:?}");
    says(&refused(&account(&unnamed, "ann:s3cret"), Mode::Create), &["denied"]);
    let store = open(&unnamed, Mode::Create).unwrap();
    assert!(store.location().ends_with("/piton") && !store.location().contains("s3cret"));
    assert!(open(&format!("{server_url}/piton"), Mode::Existing).is_ok());
}

pub(crate) fn a_server_that_only_reads_is_named<S: System>() {
    let Some((server, url)) = own::<S>(S::options()) else { return };
    drop(open(&url, Mode::Create).unwrap());
    server.administer("SET GLOBAL read_only = 1").unwrap();
    for mode in [Mode::Existing, Mode::Create] {
        says(&refused(&url, mode), &["only reads", "primary"]);
    }
}

/// TLS as `ssl-mode` says, and authorities from the file that is named.
pub(crate) fn tls_is_what_ssl_mode_asks_for<S: System>() {
    let Some((server, url)) = own::<S>(S::options().tls()) else { return };
    let server_url = url.split_once('?').map_or(&*url, |(server_url, _)| server_url);
    let authority = server.authority().unwrap();
    let with = |query: &str| format!("{server_url}?{query}");
    let rooted = |mode: &str| with(&format!("ssl-mode={mode}&ssl-ca={}", encoded(&authority)));
    for url in [
        server_url.to_owned(),
        with("ssl-mode=preferred"),
        with("ssl-mode=REQUIRED"),
        rooted("verify_identity"),
        rooted("verify_identity").replace("127.0.0.1", "localhost"),
    ] {
        let opened = open(&url, Mode::Create).map(|store| store.location());
        assert!(opened.is_ok(), "{url}: {opened:?}");
    }
    assert!(open(&with("ssl-mode=disabled"), Mode::Create).is_err());
    says(&refused(&with("ssl-mode=verify_identity"), Mode::Create), &["certificate"]);
    says(&refused(&rooted("verify_ca"), Mode::Create), &["any public authority"]);
}

fn encoded(path: &std::path::Path) -> String {
    path.display().to_string().replace('/', "%2F")
}
