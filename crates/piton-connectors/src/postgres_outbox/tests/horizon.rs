//! What holds messages back, and that it is named. On a server of its own, since any open
//! transaction of the cluster does.

use std::time::Duration;

use piton_testkit::service::{self, Postgres};
use postgres::{Client, NoTls};
use serde_json::json;

use super::{Place, append, ids, nothing_comes, until};
use crate::{
    postgres::{Server, wire::Wire},
    postgres_outbox::horizon::holder,
    source::{Source, Start},
};

const A_WHILE: Duration = Duration::from_millis(300);

/// Each holds back every message of the cluster, and each is named.
#[test]
fn whoever_holds_messages_back_is_named() {
    let options = Postgres::options().line("fsync = off");
    let Some(server) = service::needed(options.start()) else { return };
    let place = Place::on(&server, json!({}));
    let next_door = server.database().unwrap();
    let (_, database) = next_door.rsplit_once('/').unwrap();
    place.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1); CREATE ROLE low LOGIN");
    Client::connect(&next_door, NoTls).unwrap().batch_execute("CREATE TABLE t (n int)").unwrap();
    let as_low = place.url.replace("postgres@", "low@");
    let (url, next_door) = (place.url.as_str(), next_door.as_str());
    let mut reader = place.reader(None);
    for (at, statements) in [
        (next_door, "INSERT INTO t VALUES (1)"),
        (url, "SELECT * FROM t FOR UPDATE"),
        (url, "CREATE TEMP TABLE mine (n int)"),
        (url, "ANALYZE t"),
        (url, "SAVEPOINT s; INSERT INTO t VALUES (2); ROLLBACK TO s"),
    ] {
        let mut holds = Client::connect(at, NoTls).unwrap();
        holds.batch_execute(&format!("BEGIN; {statements}")).unwrap();
        let pid: i32 = holds.query_one("SELECT pg_backend_pid()", &[]).unwrap().get(0);
        append(&mut place.client(), statements);
        nothing_comes(&mut *reader, A_WHILE);
        for looks in [url, as_low.as_str()] {
            let named = holder(&wire(looks)).unwrap().unwrap();
            assert!(named.contains(&format!("of session {pid}")), "{statements}: {named}");
            let (_, database) = at.rsplit_once('/').unwrap();
            assert!(named.contains(&format!("database {database}")), "{statements}: {named}");
        }
        holds.batch_execute("ROLLBACK").unwrap();
        assert_eq!(ids(&mut *reader, 1), [statements]);
    }
    let mut prepares = Client::connect(next_door, NoTls).unwrap();
    prepares
        .batch_execute("BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'forgotten'")
        .unwrap();
    append(&mut place.client(), "prepared");
    nothing_comes(&mut *reader, A_WHILE);
    let named = holder(&wire(url)).unwrap().unwrap();
    assert!(named.contains("prepared as 'forgotten'"), "{named}");
    assert!(named.contains(&format!("database {database}")), "{named}");
    prepares.batch_execute("ROLLBACK PREPARED 'forgotten'").unwrap();
    assert_eq!(ids(&mut *reader, 1), ["prepared"]);
    assert_eq!(holder(&wire(url)).unwrap(), None);
}

/// Reading holds nothing back: neither the reader nor another reads behind the other.
#[test]
fn readers_hold_nobody_back_and_what_waits_long_is_told() {
    let options = Postgres::options().line("fsync = off");
    let Some(server) = service::needed(options.start()) else { return };
    let place = Place::on(&server, json!({}));
    let source = place.source();
    let start = Start { partition: "outbox".into(), position: None };
    let mut reader = source.reader(&[start]).unwrap();
    let mut old = place.client();
    old.batch_execute("SET application_name = 'nightly'; BEGIN; SELECT pg_current_xact_id()")
        .unwrap();
    nothing_comes(&mut *reader, Duration::from_millis(1500));
    assert_eq!(source.trouble(), None, "nothing waits for it");
    append(&mut place.client(), "hidden");
    until("the reader to say who it waits for", || {
        nothing_comes(&mut *reader, A_WHILE);
        source.trouble().is_some()
    });
    let told = source.trouble().unwrap();
    assert!(told.contains("'nightly', idle in transaction, since 2"), "{told}");
    assert!(told.contains("pg_terminate_backend("), "{told}");
    old.batch_execute("COMMIT").unwrap();
    assert_eq!(ids(&mut *reader, 1), ["hidden"]);
    assert_eq!(source.trouble(), None);
}

fn wire(url: &str) -> Wire {
    Wire::open(&Server::parse(url).unwrap()).unwrap()
}
