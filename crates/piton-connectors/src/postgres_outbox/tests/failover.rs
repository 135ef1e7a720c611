//! Servers that are not what they were: restored, promoted, set back, restarted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use piton_core::StoredPosition;
use piton_testkit::service::{self, Postgres, Server};
use serde_json::json;

use super::{Place, append, at, gap, ids, ids_in, until};
use crate::source::{Read, Source, SourceError};

/// A server whose data can be put aside and put back.
struct Movable {
    server: Server,
    place: Place,
    data: PathBuf,
}

impl Movable {
    fn start() -> Option<Self> {
        let options = Postgres::options().line("restore_command = 'false'");
        let server = service::needed(options.start())?;
        let place = Place { url: server.url(), ..Place::bare(server.url(), json!({})) };
        place.sql(&super::ddl(&place.settings(), false));
        let data = place.client().query_one("SHOW data_directory", &[]).unwrap();
        let data = PathBuf::from(data.get::<_, String>(0));
        Some(Self { server, place, data })
    }

    fn append(&self, messages: impl IntoIterator<Item = u32>) {
        let mut client = self.place.client();
        for message in messages {
            append(&mut client, &message.to_string());
        }
    }

    /// Reads everything and returns the last position.
    fn relay(&self, messages: usize) -> StoredPosition {
        self.place.read(None, messages).pop().unwrap().end
    }

    fn copy(&self) -> PathBuf {
        self.data.with_file_name("copy")
    }

    /// Keeps the data as it is now.
    fn keep(&mut self) {
        self.server.stop().unwrap();
        copy(&self.data, &self.copy());
        self.server.start_again().unwrap();
    }

    /// Puts back what was kept: as it was, or recovered as by a replica that takes over.
    fn put_back(&mut self, recovers: bool) {
        self.server.stop().unwrap();
        fs::remove_dir_all(&self.data).unwrap();
        copy(&self.copy(), &self.data);
        if recovers {
            signal(&self.data, "recovery.signal");
        }
        self.server.start_again().unwrap();
        until("the recovery to end", || {
            let recovers = "SELECT pg_is_in_recovery()";
            !self.place.client().query_one(recovers, &[]).unwrap().get::<_, bool>(0)
        });
    }

    /// Uses transaction ids, as an application does that goes on.
    fn goes_on(&self, transactions: u32) {
        let mut client = self.place.client();
        for _ in 0..transactions {
            client.execute("SELECT pg_current_xact_id()", &[]).unwrap();
        }
    }
}

fn copy(from: &PathBuf, to: &PathBuf) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// An empty file that is the server's own.
fn signal(data: &Path, name: &str) {
    copy(&data.join("PG_VERSION"), &data.join(name));
}

/// The relayed messages 4 to 6 are lost, and their places are given to others.
#[test]
fn a_promoted_server_that_lacks_what_was_relayed_is_refused() {
    let Some(mut primary) = Movable::start() else { return };
    primary.append(1..=3);
    primary.keep();
    primary.append(4..=6);
    let position = primary.relay(6);
    primary.put_back(true);
    let what = gap(primary.place.verify(Some(position.clone())));
    assert!(what.contains("the server is behind it") && what.contains("piton rewind"), "{what}");
    assert!(!what.contains("fingerprint"), "{what}");
    // The application goes on, and its new messages get the ids of the lost ones.
    primary.append(7..=9);
    primary.goes_on(10);
    let what = gap(primary.place.verify(Some(position.clone())));
    assert!(what.contains("another message stands there") || what.contains("timeline 1 to 2"));
    assert!(matches!(primary.place.try_from(Some(position.clone())), Err(SourceError::Gap { .. })));
    // An operator who goes back to before the loss gets everything.
    let before = primary.place.read(None, 3)[0].resume_at(2);
    assert_eq!(ids_in(&primary.place.read(Some(before), 4)), ["3", "7", "8", "9"]);
}

#[test]
fn a_promoted_server_that_has_everything_goes_on() {
    let Some(mut primary) = Movable::start() else { return };
    primary.append(1..=3);
    let position = primary.relay(3);
    primary.append(4..=5);
    primary.keep();
    primary.put_back(true);
    primary.append(6..=6);
    primary.place.verify(Some(position.clone())).unwrap();
    let batches = primary.place.read(Some(position), 3);
    assert_eq!(ids_in(&batches), ["4", "5", "6"]);
    let end = &batches.last().unwrap().end.json;
    assert!(end.contains(r#""timeline":2"#), "{end}");
}

/// Whoever deletes what was relayed leaves nothing by which to see that nothing is missing.
#[test]
fn after_a_failover_a_position_without_its_message_is_refused() {
    let Some(mut primary) = Movable::start() else { return };
    primary.append(1..=3);
    let position = primary.relay(3);
    primary.place.sql("DELETE FROM outbox");
    primary.place.verify(Some(position.clone())).unwrap();
    primary.keep();
    primary.put_back(true);
    let what = gap(primary.place.verify(Some(position.clone())));
    assert!(what.contains("timeline 1 to 2") && what.contains("--accept-changes"), "{what}");
    primary.place.accept_changes = true;
    primary.append(4..=4);
    assert_eq!(ids_in(&primary.place.read(Some(position), 1)), ["4"]);
}

/// Files of a backup, started as they are: no new timeline tells of it.
#[test]
fn a_server_that_was_set_back_is_refused() {
    let Some(mut server) = Movable::start() else { return };
    server.append(1..=3);
    server.keep();
    server.append(4..=6);
    let position = server.relay(6);
    server.put_back(false);
    assert!(gap(server.place.verify(Some(position.clone()))).contains("is behind it"));
    server.append(7..=9);
    let what = gap(server.place.verify(Some(position)));
    assert!(what.contains("another message stands there now"), "{what}");
}

#[test]
fn a_server_that_is_set_back_during_a_run_ends_it() {
    let Some(mut server) = Movable::start() else { return };
    server.append(1..=3);
    server.keep();
    server.append(4..=6);
    let mut reader = server.place.reader(None);
    ids(&mut *reader, 6);
    server.put_back(true);
    server.append(7..=7);
    let error = loop {
        match reader.read(10) {
            Ok(Read::Idle) => {}
            Ok(other) => panic!("{other:?} came"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SourceError::Gap { .. }), "{error:?}");
}

/// A dump brings ids of transactions that this server has yet to come to.
#[test]
fn a_restored_dump_is_refused_whether_or_not_a_position_is_stored() {
    let Some(place) = Place::new() else { return };
    place.sql(
        "INSERT INTO outbox (transaction_id, message_id, message_type, data)
         VALUES ('1000000000', 'old', 'T', '1')",
    );
    let what = gap(place.source().partitions());
    assert!(what.contains("restored from a dump") && what.contains("UPDATE \"outbox\" SET"));
    assert!(gap(place.verify(Some(at(1, 1)))).contains("restored from a dump"));
    assert!(gap(place.try_from(None)).contains("restored from a dump"));
    // As the message says.
    place.sql("UPDATE outbox SET transaction_id = pg_current_xact_id()");
    assert_eq!(ids_in(&place.read(None, 1)), ["old"]);
}

#[test]
fn another_server_is_refused_although_it_has_the_messages() {
    let Some(place) = Place::new() else { return };
    append(&mut place.client(), "1");
    let position = place.read(None, 1).pop().unwrap().end;
    let here = position.json.clone();
    let system = here.split("\"system\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let elsewhere =
        StoredPosition { json: here.replace(&system, "6123456789"), ..position.clone() };
    let what = gap(place.verify(Some(elsewhere.clone())));
    assert!(what.contains("another server stored it: that one is 6123456789"), "{what}");
    assert!(what.contains("pg_upgrade") && what.contains("piton reset"), "{what}");
    let accepting = Place { accept_changes: true, ..place };
    append(&mut accepting.client(), "2");
    assert_eq!(ids_in(&accepting.read(Some(elsewhere), 1)), ["2"]);
}

/// Ten times while messages are appended and read.
#[test]
fn a_server_that_is_killed_and_started_again_loses_and_repeats_nothing() {
    let options = Postgres::options().line("restart_after_crash = off");
    let Some(mut server) = service::needed(options.start()) else { return };
    let place = Place::bare(server.url(), json!({}));
    place.sql(&super::ddl(&place.settings(), true));
    let source = place.source();
    let start = crate::source::Start { partition: "outbox".into(), position: None };
    let mut reader = source.reader(&[start]).unwrap();
    let mut read = Vec::new();
    for round in 0..10_u32 {
        let mut client = place.client();
        for message in 0..20 {
            append(&mut client, &(round * 20 + message).to_string());
        }
        read.extend(ids(&mut *reader, 5));
        if round % 2 == 0 {
            server.kill().unwrap();
        } else {
            server.stop().unwrap();
        }
        until("the loss to be noticed", || {
            assert!(matches!(reader.read(3).unwrap(), Read::Batch(_) | Read::Idle));
            source.trouble().is_some()
        });
        assert!(source.trouble().unwrap().contains("waiting for the server"));
        server.start_again().unwrap();
    }
    let left = 200 - read.len();
    read.extend(ids(&mut *reader, left));
    let wanted: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(read, wanted);
    super::nothing_comes(&mut *reader, Duration::from_millis(200));
    assert_eq!(source.trouble(), None);
}

/// Ids of transactions that left nothing on the disk are given again after a crash, so the end
/// must not be one of them.
#[test]
fn an_end_that_was_found_before_a_crash_skips_nothing_after_it() {
    let options = Postgres::options().line("restart_after_crash = off").line("fsync = off");
    // What has no need to be on the disk does not come there by itself.
    let Some(mut server) = service::needed(options.line("wal_writer_delay = 10s").start()) else {
        return;
    };
    let place = Place::bare(server.url(), json!({"start": "end"}));
    place.sql(&super::ddl(&place.settings(), false));
    append(&mut place.client(), "before");
    let mut client = place.client();
    let mut given = 0;
    for _ in 0..50 {
        let mut nothing = client.transaction().unwrap();
        let id = nothing.query_one("SELECT pg_current_xact_id()::text::bigint", &[]).unwrap();
        given = id.get(0);
        nothing.rollback().unwrap();
    }
    let Read::Batch(begin) = place.reader(None).read(10).unwrap() else {
        panic!("where it begins comes first")
    };
    server.kill().unwrap();
    server.start_again().unwrap();
    append(&mut place.client(), "after");
    let id = "SELECT max(transaction_id::text::bigint) FROM outbox";
    let id: i64 = place.client().query_one(id, &[]).unwrap().get(0);
    assert!(id <= given, "{id} was never given before: this proves nothing");
    assert_eq!(ids(&mut *place.reader(Some(begin.end)), 1), ["after"]);
}

/// A replica shows no transactions in flight, only the oldest: that is what is read by.
#[test]
fn a_replica_is_read_in_the_same_order_and_hides_the_same() {
    let Some(mut primary) = Movable::start() else { return };
    let Some(mut replica) = service::needed(Postgres::options().start()) else { return };
    primary.keep();
    let place = Place::bare(replica.url(), json!({}));
    let data: String = place.client().query_one("SHOW data_directory", &[]).unwrap().get(0);
    let data = PathBuf::from(data);
    replica.stop().unwrap();
    let configuration = fs::read(data.join("postgresql.conf")).unwrap();
    fs::remove_dir_all(&data).unwrap();
    copy(&primary.copy(), &data);
    let port = primary.server.address().port();
    let follow = format!("\nprimary_conninfo = 'host=127.0.0.1 port={port} user=postgres'\n");
    fs::write(data.join("postgresql.conf"), [configuration, follow.into_bytes()].concat()).unwrap();
    signal(&data, "standby.signal");
    replica.start_again().unwrap();

    let mut reader = place.reader(None);
    primary.append(1..=2);
    assert_eq!(ids(&mut *reader, 2), ["1", "2"]);
    let mut client = primary.place.client();
    let mut early = client.transaction().unwrap();
    append(&mut early, "early");
    primary.append(3..=3);
    super::nothing_comes(&mut *reader, Duration::from_millis(700));
    early.commit().unwrap();
    assert_eq!(ids(&mut *reader, 2), ["early", "3"]);
    let mut deleting = Place::bare(replica.url(), json!({"delete_passed": true}));
    deleting.record_limit = 1 << 20;
    match deleting.source().partitions() {
        Err(SourceError::Settings { what }) => assert!(what.contains("is a replica"), "{what}"),
        other => panic!("{other:?}"),
    }
}
