//! Order, and that nothing is skipped or repeated.

use std::{
    thread,
    time::{Duration, Instant},
};

use piton_testkit::Dice;
use postgres::{Client, NoTls, SimpleQueryMessage};
use serde_json::json;

use super::{Place, append, at, gap, ids, ids_in, nothing_comes};
use crate::{
    postgres_outbox::{
        session::{Outbox, Session},
        shape::DataType,
    },
    source::{Read, Source, SourceError},
};

const A_WHILE: Duration = Duration::from_millis(300);

#[test]
fn messages_come_in_the_order_of_their_transactions() {
    let Some(place) = Place::new() else { return };
    let (mut first, mut second) = (place.client(), place.client());
    let mut early = first.transaction().unwrap();
    early.execute("SELECT pg_current_xact_id()", &[]).unwrap();
    let mut late = second.transaction().unwrap();
    append(&mut late, "late 1");
    append(&mut early, "early 1");
    append(&mut late, "late 2");
    append(&mut early, "early 2");
    late.commit().unwrap();
    early.commit().unwrap();
    let batches = place.read(None, 4);
    assert_eq!(ids_in(&batches), ["early 1", "early 2", "late 1", "late 2"]);
}

/// A message that is committed has to wait for all that may still come before it.
#[test]
fn a_message_waits_for_an_older_transaction_in_flight() {
    let Some(place) = Place::new() else { return };
    let (mut first, mut second) = (place.client(), place.client());
    let mut reader = place.reader(None);
    let mut early = first.transaction().unwrap();
    append(&mut early, "early");
    append(&mut second, "late");
    nothing_comes(&mut *reader, A_WHILE);
    early.commit().unwrap();
    assert_eq!(ids(&mut *reader, 2), ["early", "late"]);
    nothing_comes(&mut *reader, A_WHILE);
}

#[test]
fn an_early_transaction_that_appends_after_anothers_commit_comes_first() {
    let Some(place) = Place::new() else { return };
    let (mut first, mut second) = (place.client(), place.client());
    let mut reader = place.reader(None);
    let mut early = first.transaction().unwrap();
    early.execute("SELECT pg_current_xact_id()", &[]).unwrap();
    append(&mut second, "committed first");
    nothing_comes(&mut *reader, A_WHILE);
    append(&mut early, "appended last");
    early.commit().unwrap();
    assert_eq!(ids(&mut *reader, 2), ["appended last", "committed first"]);
}

#[test]
fn what_was_rolled_back_leaves_no_gap_to_wait_for() {
    let Some(place) = Place::new() else { return };
    let mut client = place.client();
    let mut reader = place.reader(None);
    append(&mut client, "1");
    let mut lost = client.transaction().unwrap();
    append(&mut lost, "lost");
    let mut saved = lost.savepoint("s").unwrap();
    append(&mut saved, "lost too");
    saved.rollback().unwrap();
    lost.rollback().unwrap();
    append(&mut client, "2");
    assert_eq!(ids(&mut *reader, 2), ["1", "2"]);
    let positions = client.query_one("SELECT max(position) - min(position) FROM outbox", &[]);
    assert_eq!(positions.unwrap().get::<_, i64>(0), 3);
}

/// Emmett 0.42 orders by the pair and goes on by the position alone: 51 of 2,400 lost.
#[test]
fn eight_appenders_at_once_lose_nothing_in_small_and_large_batches() {
    const APPENDERS: u64 = 8;
    const EACH: u64 = 60;
    let Some(place) = Place::new() else { return };
    for limit in [1, 7, 1000] {
        place.sql("TRUNCATE outbox");
        let mut reader = place.reader(None);
        let mut read: Vec<String> = Vec::new();
        thread::scope(|scope| {
            let appenders: Vec<_> = (0..APPENDERS)
                .map(|appender| {
                    let url = &place.url;
                    scope.spawn(move || append_at_random(url, appender, EACH))
                })
                .collect();
            let began = Instant::now();
            loop {
                let is_over = appenders.iter().all(thread::ScopedJoinHandle::is_finished);
                match reader.read(limit).unwrap() {
                    Read::Batch(batch) => read.extend(ids_in(&[batch])),
                    Read::Idle if is_over && read.len() as u64 >= committed(&place) => break,
                    _ => {}
                }
                assert!(began.elapsed() < super::PATIENCE, "{} read", read.len());
            }
        });
        let mut client = place.client();
        let wanted = client
            .query("SELECT message_id FROM outbox ORDER BY transaction_id, position", &[])
            .unwrap();
        let wanted: Vec<String> = wanted.iter().map(|row| row.get(0)).collect();
        assert!(wanted.len() > 300, "only {} were committed", wanted.len());
        assert_eq!(read, wanted, "in batches of {limit}");
    }
}

fn committed(place: &Place) -> u64 {
    let count = place.client().query_one("SELECT count(*) FROM outbox", &[]).unwrap();
    count.get::<_, i64>(0) as u64
}

fn append_at_random(url: &str, appender: u64, times: u64) {
    let mut dice = Dice::new();
    let mut client = Client::connect(url, NoTls).unwrap();
    for n in 0..times {
        let mut transaction = client.transaction().unwrap();
        for part in 0..dice.between(1, 3) {
            append(&mut transaction, &format!("{appender}.{n}.{part}"));
            thread::sleep(Duration::from_millis(dice.between(0, 4)));
        }
        if dice.between(0, 9) == 0 {
            transaction.rollback().unwrap();
        } else {
            transaction.commit().unwrap();
        }
    }
}

/// Invariant 6: a replay from any message's position gives that message and all after it, under
/// the ids that the application gave them.
#[test]
fn reading_goes_on_exactly_with_the_message_of_a_position() {
    let Some(place) = Place::new() else { return };
    let mut client = place.client();
    for transaction in 0..6 {
        let mut open = client.transaction().unwrap();
        for message in 0..3 {
            append(&mut open, &format!("m{transaction}.{message}"));
        }
        open.commit().unwrap();
    }
    let all = ids_in(&place.read(None, 18));
    for limit in [1, 4, 100] {
        let mut reader = place.reader(None);
        let mut seen = 0;
        while seen < 18 {
            let Read::Batch(batch) = reader.read(limit).unwrap() else { continue };
            assert!(batch.rows() <= limit);
            for row in 0..batch.rows() {
                let rest = place.read(Some(batch.resume_at(row)), 18 - seen);
                assert_eq!(ids_in(&rest), all[seen..]);
                assert_eq!(batch.id(row), all[seen]);
                seen += 1;
            }
            let mut rest = place.reader(Some(batch.end.clone()));
            assert_eq!(ids(&mut *rest, 18 - seen), all[seen..]);
        }
    }
}

/// However deep the backlog, and whether the plan is made for the parameters or for any.
#[test]
fn a_page_is_one_scan_of_the_index_without_a_sort() {
    let Some(place) = Place::new() else { return };
    place.sql(
        "DO $$ BEGIN FOR i IN 1..200 LOOP
           INSERT INTO outbox (message_id, message_type, data)
           SELECT i || '.' || n, 'T', '{}' FROM generate_series(1, 500) n;
           COMMIT;
         END LOOP; END $$",
    );
    let outbox = Outbox::of(&place.settings(), "relay", 1 << 20, false).unwrap();
    let session = Session::open(&std::sync::Arc::new(outbox)).unwrap();
    let (page, client) = (session_page(&session), &session.client);
    let newest: u64 = client
        .query_one("SELECT max(transaction_id::text::bigint) FROM outbox", &[])
        .map(|row| row.get::<_, i64>(0) as u64)
        .unwrap();
    for analyzed in [false, true] {
        for mode in ["force_custom_plan", "force_generic_plan", "auto"] {
            for behind in [0, 1, 100, newest] {
                let explain = format!(
                    "SET plan_cache_mode = {mode}; PREPARE p(text, bigint, bigint) AS {page}"
                );
                client.batch_execute(&explain).unwrap();
                let execute = format!(
                    "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE p('{}', 0, 1000)",
                    newest - behind
                );
                let plan = client.wait(client.client.simple_query(&execute)).unwrap();
                let SimpleQueryMessage::Row(plan) = &plan[1] else { panic!("{plan:?}") };
                let plan: serde_json::Value = serde_json::from_str(plan.get(0).unwrap()).unwrap();
                client.batch_execute("DEALLOCATE p").unwrap();
                one_index_scan(&plan[0]["Plan"]);
            }
        }
        if !analyzed {
            client.batch_execute("ANALYZE outbox").unwrap();
        }
    }
}

fn session_page(session: &Session) -> String {
    session.statements().page(DataType::Json)
}

fn one_index_scan(plan: &serde_json::Value) {
    assert_eq!(plan["Node Type"], json!("Limit"), "{plan:#}");
    let scan = &plan["Plans"][0];
    assert_eq!(scan["Node Type"], json!("Index Scan"), "{plan:#}");
    assert!(scan["Plans"].is_null() && scan["Filter"].is_null(), "{plan:#}");
    let condition = scan["Index Cond"].as_str().unwrap();
    assert!(condition.contains("ROW(") && condition.contains("pg_snapshot_xmin"), "{plan:#}");
    let touched =
        scan["Shared Hit Blocks"].as_u64().unwrap() + scan["Shared Read Blocks"].as_u64().unwrap();
    assert!(touched < 1200, "a page of 1,000 touched {touched} blocks");
}

/// "The end" is where the snapshot ends, not the highest position: a transaction in flight has
/// yet to commit below that.
#[test]
fn starting_at_the_end_does_not_skip_a_transaction_in_flight() {
    let Some(mut place) = Place::new() else { return };
    place.settings["start"] = json!("end");
    let (mut first, mut second) = (place.client(), place.client());
    append(&mut second, "before");
    // Until no transaction of another test holds it back.
    super::until("'before' to be below the horizon", || {
        let below = "SELECT transaction_id < pg_snapshot_xmin(pg_current_snapshot()) FROM outbox";
        second.query_one(below, &[]).unwrap().get(0)
    });
    let mut early = first.transaction().unwrap();
    append(&mut early, "in flight");
    append(&mut second, "after it, and hidden");
    let mut reader = place.reader(None);
    let Read::Batch(begin) = reader.read(10).unwrap() else {
        panic!("where it begins comes first")
    };
    assert_eq!((begin.rows(), begin.records), (0, 0));
    early.commit().unwrap();
    append(&mut second, "new");
    assert_eq!(ids(&mut *reader, 3), ["in flight", "after it, and hidden", "new"]);
    // A second reader of the same run, whenever it begins, begins at the same place.
    let mut again = place.reader(Some(begin.end));
    assert_eq!(ids(&mut *again, 3), ["in flight", "after it, and hidden", "new"]);
}

#[test]
fn the_readers_of_one_run_begin_at_one_end() {
    let Some(mut place) = Place::new() else { return };
    place.settings["start"] = json!("end");
    let source = place.source();
    let start = crate::source::Start { partition: "outbox".into(), position: None };
    let mut first = source.reader(std::slice::from_ref(&start)).unwrap();
    append(&mut place.client(), "new");
    let mut second = source.reader(&[start]).unwrap();
    assert_eq!(ids(&mut *first, 1), ["new"]);
    assert_eq!(ids(&mut *second, 1), ["new"]);
}

#[test]
fn a_stored_position_wins_over_start() {
    let Some(mut place) = Place::new() else { return };
    let mut client = place.client();
    for id in ["1", "2", "3"] {
        append(&mut client, id);
    }
    let all = place.read(None, 3);
    let second = all[0].resume_at(1);
    for start in [json!("beginning"), json!("end"), json!("last")] {
        place.settings["start"] = start;
        assert_eq!(ids_in(&place.read(Some(second.clone()), 2)), ["2", "3"]);
        place.verify(Some(second.clone())).unwrap();
    }
    place.settings["start"] = json!("last");
    assert!(gap(place.verify(None)).contains("none is stored"));
    assert!(gap(place.try_from(None)).contains("`start: last`"));
    let after: serde_json::Value = serde_json::from_str(&second.json).unwrap();
    place.settings["start"] = json!({"after":
        {"transaction_id": after["transaction_id"], "position": after["position"]}});
    assert_eq!(ids(&mut *place.reader(None), 2), ["2", "3"]);
    let mut reader = place.reader(None);
    let Read::Batch(begin) = reader.read(10).unwrap() else {
        panic!("where it begins comes first")
    };
    assert!(begin.end.json.contains(r#""position":1"#), "{}", begin.end.json);
}

#[test]
fn an_empty_outbox_is_waited_at() {
    let Some(place) = Place::new() else { return };
    let mut reader = place.reader(None);
    nothing_comes(&mut *reader, A_WHILE);
    append(&mut place.client(), "1");
    assert_eq!(ids(&mut *reader, 1), ["1"]);
}

#[test]
fn a_dead_letter_is_read_again_from_its_message() {
    let Some(place) = Place::new() else { return };
    append(&mut place.client(), "a");
    let message = super::line(&place.read(None, 1)[0], 0);
    let source = place.source();
    let mut kept = message.clone();
    kept["data"] = json!({"broken": true});
    let again = source.parse("outbox", &kept.to_string()).unwrap();
    assert_eq!((super::line(&again, 0), again.id(0)), (message.clone(), "a".into()));
    place.sql("DELETE FROM outbox");
    let kept = source.parse("outbox", &kept.to_string()).unwrap();
    assert_eq!(super::line(&kept, 0)["data"], json!({"broken": true}));
    assert_eq!(kept.id(0), "a");
    let place_only = json!({"transaction_id": message["transaction_id"], "position": 1});
    for (raw, why) in
        [(place_only.to_string(), "gone"), ("{}".into(), "lacks"), ("[".into(), "dead letter")]
    {
        match source.parse("outbox", &raw) {
            Err(SourceError::Failed { what }) => assert!(what.contains(why), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn positions_of_another_sort_are_refused() {
    let Some(place) = Place::new() else { return };
    for (kind, json) in [("sql", r#"{"key":[1]}"#), ("postgres_outbox", r#"{"key":[1]}"#)] {
        let position = piton_core::StoredPosition { kind: kind.into(), json: json.into() };
        let refused = place.verify(Some(position));
        assert!(matches!(refused, Err(SourceError::Position(_))), "{refused:?}");
    }
    let elsewhere = crate::source::Start { partition: "other".into(), position: Some(at(1, 1)) };
    assert!(gap(place.source().verify(&elsewhere, false)).contains("now reads 'outbox'"));
}
