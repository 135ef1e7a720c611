//! A poll passes no row that somebody may still add.

use std::{
    thread,
    time::{Duration, Instant},
};

use piton_connectors::source::{Read, Reader, Source as _};
use piton_testkit::Dice;
use postgres::Client;

use crate::{place::Place, source::json};

/// What one read gives.
fn ids(reader: &mut dyn Reader) -> Vec<i64> {
    let id = |row: &String| serde_json::from_str::<serde_json::Value>(row).unwrap()["id"].as_i64();
    match reader.read(500).unwrap() {
        Read::Batch(batch) => json(&batch).iter().map(|row| id(row).unwrap()).collect(),
        Read::Idle => Vec::new(),
        other => panic!("{other:?}"),
    }
}

/// What a poll finds that goes by the last key alone.
fn careless(place: &Place, seen: &mut Vec<i64>) {
    let after = seen.last().copied().unwrap_or_default();
    let new = "SELECT id FROM t WHERE id > $1 ORDER BY id";
    seen.extend(
        place.client().query(new, &[&after]).unwrap().iter().map(|row| row.get::<_, i64>(0)),
    );
}

/// What the slow session does: before the others, and then step by step while they are polled.
struct Slow {
    what: &'static str,
    begin: &'static str,
    steps: &'static [&'static str],
    wanted: &'static [i64],
}

/// How a session can hold a number that it writes later. The others write 2 and 3 meanwhile.
const SLOW: &[Slow] = &[
    Slow {
        what: "has taken its number and not written",
        begin: "BEGIN; SELECT nextval('t_id_seq')",
        steps: &["INSERT INTO t (id) VALUES (1)", "COMMIT"],
        wanted: &[1, 2, 3],
    },
    Slow {
        what: "has written",
        begin: "BEGIN; INSERT INTO t DEFAULT VALUES",
        steps: &["SELECT 1", "COMMIT"],
        wanted: &[1, 2, 3],
    },
    Slow {
        what: "writes within a savepoint",
        begin: "BEGIN; SAVEPOINT a; SELECT nextval('t_id_seq')",
        steps: &["INSERT INTO t (id) VALUES (1)", "RELEASE a", "COMMIT"],
        wanted: &[1, 2, 3],
    },
    Slow {
        what: "gives up",
        begin: "BEGIN; INSERT INTO t DEFAULT VALUES",
        steps: &["ROLLBACK"],
        wanted: &[2, 3],
    },
    Slow {
        what: "is prepared before",
        begin: "BEGIN; INSERT INTO t DEFAULT VALUES; PREPARE TRANSACTION 'NAME'",
        steps: &["SELECT 1", "COMMIT PREPARED 'NAME'"],
        wanted: &[1, 2, 3],
    },
    Slow {
        what: "is prepared while it is waited for",
        begin: "BEGIN; INSERT INTO t DEFAULT VALUES",
        steps: &["PREPARE TRANSACTION 'NAME'", "SELECT 1", "COMMIT PREPARED 'NAME'"],
        wanted: &[1, 2, 3],
    },
    Slow {
        what: "writes and is prepared while it is waited for",
        begin: "BEGIN; SELECT nextval('t_id_seq')",
        steps: &[
            "INSERT INTO t (id) VALUES (1)",
            "PREPARE TRANSACTION 'NAME'",
            "COMMIT PREPARED 'NAME'",
        ],
        wanted: &[1, 2, 3],
    },
];

/// Invariant 1 for a source, and the proof that these transactions can be skipped: a poll that goes
/// by the last key alone skips every row that comes late.
#[test]
fn a_row_that_is_committed_late_is_waited_for() {
    for slow in SLOW {
        let Some(place) = Place::new() else { return };
        place.run("CREATE TABLE t (id bigserial PRIMARY KEY)");
        // Names of prepared transactions are the whole server's.
        let name = place.url.rsplit('/').next().unwrap().to_owned();
        let run = |client: &mut Client, sql: &str| {
            client.batch_execute(&sql.replace("NAME", &name)).unwrap();
        };
        let mut session = place.client();
        run(&mut session, slow.begin);
        let mut reader = place.source("table: t\npoll: 1ms").reader(&[]).unwrap();
        let mut hasty = Vec::new();
        place.run("INSERT INTO t VALUES (nextval('t_id_seq')), (nextval('t_id_seq'))");
        for step in slow.steps {
            careless(&place, &mut hasty);
            for _ in 0..10 {
                assert_eq!(ids(&mut *reader), [0; 0], "the slow one {}: before {step}", slow.what);
            }
            run(&mut session, step);
        }
        careless(&place, &mut hasty);
        let mut seen = Vec::new();
        let until = Instant::now() + Duration::from_secs(20);
        while seen.len() < slow.wanted.len() && Instant::now() < until {
            seen.extend(ids(&mut *reader));
        }
        assert_eq!(seen, slow.wanted, "the slow one {}", slow.what);
        assert_eq!(hasty, [2, 3], "the slow one {}: it could have been skipped", slow.what);
    }
}

/// A transaction that began later than a key was seen does not hold it back.
#[test]
fn whoever_comes_later_is_not_waited_for() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (id bigserial PRIMARY KEY)");
    let mut first = place.client();
    first.batch_execute("BEGIN; SELECT nextval('t_id_seq')").unwrap();
    place.run("INSERT INTO t DEFAULT VALUES");
    let mut reader = place.source("table: t\npoll: 1ms").reader(&[]).unwrap();
    assert_eq!(ids(&mut *reader), [0; 0]);
    let mut later = place.client();
    later.batch_execute("BEGIN; INSERT INTO t DEFAULT VALUES").unwrap();
    first.batch_execute("COMMIT").unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let mut seen = Vec::new();
    while seen.is_empty() && Instant::now() < until {
        seen = ids(&mut *reader);
    }
    assert_eq!(seen, [2], "3 is still open");
}

/// Whoever holds rows back for long is named, with what ends it.
#[test]
fn who_holds_rows_back_is_named() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (id bigserial PRIMARY KEY)");
    let name = place.url.rsplit('/').next().unwrap();
    let mut session = place.client();
    let begin = "SET application_name = 'nightly'; BEGIN; INSERT INTO t DEFAULT VALUES";
    session.batch_execute(begin).unwrap();
    place.run("INSERT INTO t DEFAULT VALUES");
    let source = place.source("table: t\npoll: 1ms");
    let mut reader = source.reader(&[]).unwrap();
    let mut told = |words: &[&str]| {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            assert_eq!(ids(&mut *reader), [0; 0]);
            let trouble = source.trouble().unwrap_or_default();
            if words.iter().all(|word| trouble.contains(word)) {
                return;
            }
        }
        panic!("{words:?}: {:?}", source.trouble());
    };
    told(&["'nightly'", "idle in transaction", "pg_terminate_backend"]);
    session.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).unwrap();
    told(&[name, "ROLLBACK PREPARED"]);
    session.batch_execute(&format!("ROLLBACK PREPARED '{name}'")).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while ids(&mut *reader) != [2] {
        assert!(Instant::now() < until);
    }
    assert_eq!(source.trouble(), None);
}

/// Invariant 1 for a source: eight writers take numbers and commit out of order, some roll back;
/// what is committed is read once, in the order of the key.
#[test]
fn a_poll_passes_no_row_that_is_committed_later() {
    let Some(place) = Place::new() else { return };
    place.run("CREATE TABLE t (id bigserial PRIMARY KEY, writer int)");
    let source = place.source("table: t\npoll: 5ms");
    let mut reader = source.reader(&[]).unwrap();
    let mut seen = Vec::new();
    thread::scope(|scope| {
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let place = &place;
                scope.spawn(move || {
                    let mut dice = Dice::seeded(writer);
                    let mut client = place.client();
                    for _ in 0..60 {
                        let mut tx = client.transaction().unwrap();
                        // A number is taken long before the row is written.
                        let next = "SELECT nextval('t_id_seq')";
                        let id: i64 = tx.query_one(next, &[]).unwrap().get(0);
                        thread::sleep(Duration::from_millis(dice.between(0, 12)));
                        let insert = "INSERT INTO t VALUES ($1, $2)";
                        tx.execute(insert, &[&id, &(writer as i32)]).unwrap();
                        thread::sleep(Duration::from_millis(dice.between(0, 6)));
                        if dice.between(0, 9) == 0 {
                            tx.rollback().unwrap();
                        } else {
                            tx.commit().unwrap();
                        }
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            seen.extend(ids(&mut *reader));
        }
    });
    let until = Instant::now() + Duration::from_secs(20);
    let all: Vec<i64> = place
        .client()
        .query("SELECT id FROM t ORDER BY id", &[])
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    while seen.len() < all.len() && Instant::now() < until {
        seen.extend(ids(&mut *reader));
    }
    assert_eq!(seen, all);
}
