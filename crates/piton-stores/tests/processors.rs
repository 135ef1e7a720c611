//! The functions by which programs in any language keep checkpoints in a PostgreSQL store: called
//! as such a program would, and looked at through the store.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

use std::{
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{
    Claim, ClaimAnswer, ClaimRequest, Control, Epoch, Event, Order, OrderKind, Owner,
    PipelineRecord, Saved, Store, StoredPosition, claim::WHOLE,
};
use piton_stores::{Mode, SqlStore, postgres::schema_script};
use piton_testkit::service::{self, Postgres};
use postgres::{Client, IsolationLevel, NoTls, error::SqlState};

const NAME: &str = "mailer";

/// A database in which `piton sql postgres` was run.
struct Place {
    url: String,
}

impl Place {
    fn new() -> Option<Self> {
        let url = service::needed(Postgres::shared())?.database().unwrap();
        let place = Self { url };
        place.session().batch_execute(&schema_script()).unwrap();
        Some(place)
    }

    fn session(&self) -> Client {
        Client::connect(&self.url, NoTls).unwrap()
    }

    fn store(&self) -> Arc<dyn Store> {
        Arc::new(SqlStore::postgres(&self.url, Mode::Existing).unwrap())
    }
}

/// What a call of one of the functions returns.
fn ask(session: &mut impl postgres::GenericClient, call: &str) -> Option<i64> {
    session.query_one(&format!("SELECT ({call})::bigint"), &[]).unwrap().get(0)
}

fn is_true(session: &mut Client, call: &str) -> bool {
    session.query_one(&format!("SELECT {call}"), &[]).unwrap().get(0)
}

fn claim(session: &mut Client, owner: &str) -> Option<i64> {
    ask(session, &format!("claim_processor('{NAME}', '{owner}', '30 s')"))
}

fn save(new: i64, expected: &str, transaction: u64) -> String {
    format!("store_processor_checkpoint('{NAME}', {new}, {expected}, '{transaction}'::xid8)")
}

fn rust_claim(store: &dyn Store, silent: bool) -> ClaimAnswer {
    let request = ClaimRequest {
        pipeline: NAME.to_owned(),
        partition: WHOLE.to_owned(),
        owner: Owner { host: "rust".to_owned(), pid: 7 },
        lease: Duration::from_millis(if silent { 200 } else { 30_000 }),
        at_least: Epoch(0),
        silent: None,
        now: Timestamp::now(),
    };
    block_on(store.claim(request)).unwrap()
}

fn granted(answer: ClaimAnswer) -> Claim {
    match answer {
        ClaimAnswer::Granted { claim, .. } => claim,
        ClaimAnswer::Held(holder) => panic!("held by {holder}"),
    }
}

/// All 64 combinations of stored, expected and new, through every form that a program may call.
#[test]
fn sixty_four_combinations_follow_one_rule() {
    let Some(place) = Place::new() else { return };
    let mut session = place.session();
    let values = [None, Some(10), Some(20), Some(30)];
    let text = |value: Option<i64>| value.map_or("NULL".to_owned(), |value| value.to_string());
    let mut n = 0;
    for (stored, expected) in values.iter().flat_map(|s| values.map(|e| (*s, e))) {
        for (new, by_pair) in values.iter().flat_map(|new| [(*new, false), (*new, true)]) {
            n += 1;
            let name = format!("p{n}");
            if let Some(stored) = stored {
                let call = format!(
                    "store_processor_checkpoint('{name}', {stored}, NULL, '{stored}'::xid8)"
                );
                assert_eq!(ask(&mut session, &call), Some(1));
            }
            let (new_text, expected_text) = (text(new), text(expected));
            let pair = if by_pair {
                format!(", '{expected_text}'::xid8").replace("'NULL'", "NULL")
            } else {
                String::new()
            };
            let call = format!(
                "store_processor_checkpoint('{name}', {new_text}, {expected_text}, '{}'::xid8{pair})",
                new.unwrap_or(1)
            );
            let answer = session.query_one(&format!("SELECT {call}"), &[]);
            let Some(new) = new else {
                let error = answer.unwrap_err();
                assert_eq!(error.code(), Some(&SqlState::NULL_VALUE_NOT_ALLOWED), "{call}");
                continue;
            };
            let wanted = if stored == expected {
                1
            } else if stored == Some(new) {
                0
            } else if stored > expected {
                2
            } else {
                3
            };
            assert_eq!(answer.unwrap().get::<_, i32>(0), wanted, "stored {stored:?}: {call}");
            let there = session
                .query_opt(
                    "SELECT last_processed_position, last_processed_transaction_id::text
                 FROM processor_checkpoints WHERE processor_id = $1",
                    &[&name],
                )
                .unwrap();
            let there = there.map(|row| (row.get::<_, i64>(0), row.get::<_, String>(1)));
            let stands = if wanted == 1 { Some(new) } else { stored };
            assert_eq!(there, stands.map(|at| (at, at.to_string())), "{call}");
        }
    }
    assert_eq!(n, 128);
    // Every row of it adds up, and going back was recorded.
    let store = place.store();
    let snapshot = block_on(store.snapshot()).unwrap();
    let rewinds = snapshot.events.iter().filter(|event| event.what == "rewind").count();
    assert_eq!(rewinds, 6, "10 after 20, 10 and 20 after 30, by two forms each");
}

#[test]
fn a_later_transaction_with_a_lower_position_is_an_ordinary_advance() {
    let Some(place) = Place::new() else { return };
    let mut session = place.session();
    assert_eq!(ask(&mut session, &save(50, "NULL", 700)), Some(1));
    assert_eq!(ask(&mut session, &save(40, "50", 701)), Some(1));
    let store = place.store();
    assert!(block_on(store.events(NAME, 10)).unwrap().is_empty(), "nothing went back");
    let by_pair = |new: i64, at: u64, expected: i64, of: u64| {
        format!(
            "store_processor_checkpoint('{NAME}', {new}, {expected}, '{at}'::xid8, '{of}'::xid8)"
        )
    };
    // (701, 40) is after (700, 50): by the position alone it would not be.
    assert_eq!(ask(&mut session, &by_pair(60, 702, 50, 700)), Some(2));
    assert_eq!(ask(&mut session, &by_pair(40, 701, 50, 700)), Some(0));
    assert_eq!(ask(&mut session, &by_pair(60, 702, 40, 700)), Some(2));
    assert_eq!(ask(&mut session, &by_pair(60, 702, 41, 701)), Some(3));
    assert_eq!(ask(&mut session, &by_pair(60, 702, 40, 701)), Some(1));
}

/// Invariant 3: only the newest claim advances.
#[test]
fn a_zombies_save_after_a_takeover_is_fenced_by_whichever_kind_of_claim() {
    let Some(place) = Place::new() else { return };
    let (mut session, store) = (place.session(), place.store());
    let save = |new: i64, expected: &str, epoch: i64| {
        format!(
            "store_processor_checkpoint('{NAME}', {new}, {expected}, '{new}'::xid8, {epoch}::bigint)"
        )
    };
    let first = claim(&mut session, "a").unwrap();
    assert_eq!(claim(&mut session, "b"), None, "held");
    assert!(matches!(rust_claim(&*store, false), ClaimAnswer::Held(_)), "a store sees it");
    assert_eq!(ask(&mut session, &save(1, "NULL", first)), Some(1));
    assert!(is_true(&mut session, &format!("release_processor('{NAME}', {first})")));
    let second = granted(rust_claim(&*store, true));
    assert_eq!(second.epoch.0 as i64, first + 1, "one sequence of epochs");
    assert_eq!(claim(&mut session, "b"), None, "a store's claim is seen");
    assert_eq!(ask(&mut session, &save(2, "1", first)), Some(4));
    thread::sleep(Duration::from_millis(300));
    let third = claim(&mut session, "b").unwrap();
    assert_eq!(third, first + 2, "silent for its whole lease: replaced");
    assert_eq!(
        block_on(store.renew(&second)).unwrap(),
        Saved::Fenced { epoch: Epoch(third as u64) }
    );
    assert!(!is_true(&mut session, &format!("renew_processor('{NAME}', {first})")));
    assert!(is_true(&mut session, &format!("renew_processor('{NAME}', {third})")));
    assert_eq!(ask(&mut session, &save(2, "1", third)), Some(1));
    let never = session.query_one(&format!("SELECT {}", save(3, "2", third + 1)), &[]);
    assert_eq!(never.unwrap_err().code(), Some(&SqlState::INVALID_PARAMETER_VALUE));
    assert_eq!(block_on(store.load(NAME)).unwrap()[0].epoch, Epoch(third as u64));
}

#[test]
fn a_lease_that_is_over_is_taken_over_and_one_that_is_renewed_is_not() {
    let Some(place) = Place::new() else { return };
    let mut session = place.session();
    let short = |owner: &str| format!("claim_processor('{NAME}', '{owner}', '600 ms')");
    let first = ask(&mut session, &short("a")).unwrap();
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(250));
        assert!(is_true(&mut session, &format!("renew_processor('{NAME}', {first})")));
        assert_eq!(ask(&mut session, &short("b")), None);
    }
    thread::sleep(Duration::from_millis(700));
    assert_eq!(ask(&mut session, &short("b")), Some(first + 1));
}

/// An owner that is within its transaction shows that it lives on another connection.
#[test]
fn a_renewal_does_not_wait_for_an_open_transaction_of_the_owner() {
    let Some(place) = Place::new() else { return };
    let (mut work, mut other) = (place.session(), place.session());
    other.batch_execute("SET lock_timeout = '1s'").unwrap();
    let epoch = claim(&mut work, "a").unwrap();
    let mut open = work.transaction().unwrap();
    let save = format!(
        "store_processor_checkpoint('{NAME}', 1, NULL, '1'::xid8, NULL::xid8, {epoch}::bigint)"
    );
    assert_eq!(ask(&mut open, &save), Some(1));
    assert!(is_true(&mut other, &format!("renew_processor('{NAME}', {epoch})")));
    assert_eq!(claim(&mut other, "b"), None, "answered at once");
    open.rollback().unwrap();
    assert_eq!(ask(&mut other, "SELECT count(*) FROM processor_checkpoints"), Some(0));
}

/// Two sessions store at the same moment: one wins, the other hears of it.
#[test]
fn of_two_that_race_one_stores() {
    let Some(place) = Place::new() else { return };
    for (level, first) in [
        (IsolationLevel::ReadCommitted, false),
        (IsolationLevel::ReadCommitted, true),
        (IsolationLevel::RepeatableRead, false),
        (IsolationLevel::RepeatableRead, true),
    ] {
        for (theirs, wanted) in [(20, 0), (30, 2)] {
            let mut setup = place.session();
            let name = format!("{level:?}{first}{theirs}").to_lowercase();
            let save = |new: i64, expected: &str| {
                format!("store_processor_checkpoint('{name}', {new}, {expected}, '{new}'::xid8)")
            };
            let expected = if first { "NULL" } else { "10" };
            if !first {
                assert_eq!(ask(&mut setup, &save(10, "NULL")), Some(1));
            }
            let (mut a, mut b) = (place.session(), place.session());
            let mut winner = a.build_transaction().isolation_level(level).start().unwrap();
            let mut loser = b.build_transaction().isolation_level(level).start().unwrap();
            loser.query("SELECT 1", &[]).unwrap();
            assert_eq!(ask(&mut winner, &save(theirs, expected)), Some(1));
            let call = format!("SELECT {}", save(20, expected));
            let answer = thread::scope(|scope| {
                let waits = scope
                    .spawn(move || loser.query_one(&call, &[]).map(|row| row.get::<_, i32>(0)));
                thread::sleep(Duration::from_millis(150));
                assert!(!waits.is_finished(), "the loser waits");
                winner.commit().unwrap();
                waits.join().unwrap()
            });
            match answer {
                Ok(code) => {
                    assert!(matches!(level, IsolationLevel::ReadCommitted));
                    assert_eq!(code, wanted);
                }
                Err(error) => {
                    assert!(matches!(level, IsolationLevel::RepeatableRead));
                    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
                }
            }
        }
    }
}

/// Invariant 3, where a transaction looks at the past: what it saved would become visible after
/// the newer owner had read its position.
#[test]
fn a_snapshot_from_before_a_takeover_cannot_save() {
    let Some(place) = Place::new() else { return };
    let (mut old, mut new) = (place.session(), place.session());
    let first = ask(&mut old, &format!("claim_processor('{NAME}', 'a', '50 ms')")).unwrap();
    let level = IsolationLevel::RepeatableRead;
    let mut zombie = old.build_transaction().isolation_level(level).start().unwrap();
    zombie.query("SELECT 1", &[]).unwrap();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(claim(&mut new, "b"), Some(first + 1));
    let save =
        format!("SELECT store_processor_checkpoint('{NAME}', 1, NULL, '1'::xid8, {first}::bigint)");
    let error = zombie.query_one(&save, &[]).unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
}

#[test]
fn versions_and_partitions_are_kept_apart() {
    let Some(place) = Place::new() else { return };
    let (mut session, store) = (place.session(), place.store());
    let epoch = claim(&mut session, "a").unwrap();
    for (partition, version, new) in [("outbox", 1, 10), ("outbox", 2, 5), ("eu", 2, 7)] {
        let call = format!(
            "store_processor_checkpoint('{NAME}', {new}, NULL, '{new}'::xid8, NULL, {epoch}, '{partition}', {version})"
        );
        assert_eq!(ask(&mut session, &call), Some(1), "{call}");
    }
    let rows = block_on(store.load(NAME)).unwrap();
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (&*row.key.partition, &*row.key.sink, &*row.position.as_ref().unwrap().json))
        .collect();
    assert_eq!(
        rows,
        [
            ("eu", "v2", r#"{"transaction_id":"7","position":7}"#),
            ("outbox", "v1", r#"{"transaction_id":"10","position":10}"#),
            ("outbox", "v2", r#"{"transaction_id":"5","position":5}"#),
        ]
    );
}

/// What operators do to pipelines they do to processors.
#[test]
fn a_processor_is_paused_reset_and_rewound_like_any_pipeline() {
    let Some(place) = Place::new() else { return };
    let (mut session, store) = (place.session(), place.store());
    let event = |what: &str| Event {
        id: 0,
        pipeline: NAME.to_owned(),
        at: Timestamp::now(),
        who: "me".to_owned(),
        what: what.to_owned(),
        detail: String::new(),
    };
    let epoch = claim(&mut session, "a").unwrap();
    assert_eq!(ask(&mut session, &save(10, "NULL", 10)), Some(1));
    assert_eq!(block_on(store.holders(NAME)).unwrap().len(), 1);
    block_on(store.set_control(NAME, Control::Pause, event("pause"))).unwrap();
    assert!(!is_true(&mut session, &format!("renew_processor('{NAME}', {epoch})")));
    assert!(is_true(&mut session, &format!("release_processor('{NAME}', {epoch})")));
    assert_eq!(claim(&mut session, "a"), None, "paused");
    block_on(store.set_control(NAME, Control::Run, event("resume"))).unwrap();
    let order = |kind, position: Option<&str>| Order {
        id: 0,
        pipeline: NAME.to_owned(),
        partition: WHOLE.to_owned(),
        sink: WHOLE.to_owned(),
        kind,
        records: 0,
        sink_state: None,
        output: None,
        who: "me".to_owned(),
        position: position.map(|json| StoredPosition {
            kind: "postgres_outbox".to_owned(),
            json: json.to_owned(),
        }),
        at: Timestamp::now(),
        applied_at: None,
    };
    let back = order(OrderKind::Rewind, Some(r#"{"transaction_id":"5","position":5}"#));
    block_on(store.order(vec![back], event("rewind"))).unwrap();
    assert_eq!(ask(&mut session, &save(11, "10", 11)), Some(3));
    assert!(claim(&mut session, "a").is_some());
    assert_eq!(block_on(store.orders(NAME)).unwrap(), [], "applied");
    assert_eq!(ask(&mut session, &save(6, "5", 6)), Some(1));
    block_on(store.order(vec![order(OrderKind::Reset, None)], event("reset"))).unwrap();
    assert_eq!(ask(&mut session, &save(7, "6", 7)), Some(3));
    assert_eq!(ask(&mut session, &save(1, "NULL", 1)), Some(1));
    assert_eq!(block_on(store.orders(NAME)).unwrap(), []);
    assert!(block_on(store.history(NAME, 10)).unwrap().len() >= 2);
    block_on(store.snapshot()).unwrap();
}

#[test]
fn what_is_damaged_is_noticed_in_rows_that_the_server_wrote() {
    let Some(place) = Place::new() else { return };
    let (mut session, store) = (place.session(), place.store());
    assert_eq!(ask(&mut session, &save(10, "NULL", 10)), Some(1));
    block_on(store.load(NAME)).unwrap();
    session.batch_execute(
        "SET search_path = piton, pg_temp; UPDATE piton.checkpoints SET position = replace(position, '10', '99')"
    ).unwrap();
    assert!(block_on(store.load(NAME)).is_err());
    session.batch_execute("DELETE FROM piton.checkpoints").unwrap();
    let gone = session.query_one(&format!("SELECT {}", save(20, "NULL", 20)), &[]);
    assert_eq!(gone.unwrap_err().code(), Some(&SqlState::DATA_CORRUPTED), "never begun anew");
}

#[test]
fn the_script_may_be_run_again_and_what_is_no_processor_is_refused() {
    let Some(place) = Place::new() else { return };
    let mut session = place.session();
    session.batch_execute(&schema_script()).unwrap();
    session
        .batch_execute(
            "SET search_path = piton, pg_temp; SELECT piton.register_processor('flights', 1);
         UPDATE piton.pipelines SET source = '{}'",
        )
        .unwrap();
    let refused = session.query_one("SELECT claim_processor('flights', 'a', '1 s')", &[]);
    assert_eq!(refused.unwrap_err().code(), Some(&SqlState::INVALID_PARAMETER_VALUE));
}

/// The published signature, and no form that could be meant as well: neither by the number of its
/// arguments nor by defaults.
#[test]
fn four_arguments_need_no_types() {
    let Some(place) = Place::new() else { return };
    let mut session = place.session();
    let call = |arguments: &str| format!("store_processor_checkpoint({arguments})");
    for (arguments, wanted) in [
        ("'mailer', 10, NULL, '7'", 1),
        ("'mailer', '10', NULL, '7'", 0),
        ("'mailer', '20', '10', '8'", 1),
        ("'mailer', 30, 10, '9'", 2),
        (
            "processor_id => 'mailer', new_position => 30, expected_position => 20, \
          transaction_id => '9'",
            1,
        ),
        // With more arguments, names say which form is meant.
        ("'mailer', 40, 30, '10', expected_transaction_id => '9'", 1),
    ] {
        assert_eq!(ask(&mut session, &call(arguments)), Some(wanted), "{arguments}");
    }
    let epoch = claim(&mut session, "a").unwrap();
    let fenced = format!("'mailer', 50, 40, '11', epoch => '{epoch}'");
    assert_eq!(ask(&mut session, &call(&fenced)), Some(1));
    for arguments in
        ["'mailer', NULL, NULL, NULL", "'mailer', NULL, 40, '11'", "NULL, 1, NULL, '1'"]
    {
        let answer = session.query_one(&format!("SELECT {}", call(arguments)), &[]);
        let error = answer.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::NULL_VALUE_NOT_ALLOWED), "{arguments}: {error}");
    }
    let prepared = session.prepare(&format!("SELECT {}", call("$1, $2, $3, $4"))).unwrap();
    let types: Vec<&str> = prepared.params().iter().map(postgres::types::Type::name).collect();
    assert_eq!(types, ["text", "int8", "int8", "xid8"]);
    let forms = "SELECT count(*) FROM pg_proc WHERE proname = 'store_processor_checkpoint'
        AND (pronargdefaults > 0 OR (pronargs = 4
        AND pg_get_function_identity_arguments(oid) <> 'processor_id text, new_position bigint, '
        || 'expected_position bigint, transaction_id xid8'))";
    assert_eq!(ask(&mut session, forms), Some(0));
}

/// All that a catalog knows of the schema, one line for each thing.
const CATALOG: &str = "SELECT line FROM (
    SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'piton'::regnamespace
    UNION ALL SELECT format('%s.%s %s %s %s %s', attrelid::regclass, attname,
        format_type(atttypid, atttypmod), attnotnull, attidentity, pg_get_expr(adbin, adrelid))
      FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
      LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
      WHERE relnamespace = 'piton'::regnamespace AND relkind IN ('r', 'v') AND attnum > 0
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid
      WHERE relnamespace = 'piton'::regnamespace
    UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint
      WHERE connamespace = 'piton'::regnamespace
    UNION ALL SELECT pg_get_triggerdef(t.oid) || tgenabled::text FROM pg_trigger t
      JOIN pg_class c ON c.oid = tgrelid WHERE relnamespace = 'piton'::regnamespace
    UNION ALL SELECT pg_get_viewdef(oid) FROM pg_class
      WHERE relnamespace = 'piton'::regnamespace AND relkind = 'v'
    UNION ALL SELECT 'format ' || format FROM piton.meta) AS u (line) ORDER BY line";

fn catalog(url: &str) -> Vec<String> {
    let mut session = Client::connect(url, NoTls).unwrap();
    session.query(CATALOG, &[]).unwrap().iter().map(|row| row.get(0)).collect()
}

/// By `psql`, as a person runs it; the store then opens it, and the functions work.
#[test]
fn the_script_makes_what_a_store_makes() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let (by_store, by_script) = (server.database().unwrap(), server.database().unwrap());
    drop(SqlStore::postgres(&by_store, Mode::Create).unwrap());
    let psql = Command::new("psql")
        .args([&by_script, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn();
    match psql {
        Ok(mut psql) => {
            psql.stdin.take().unwrap().write_all(schema_script().as_bytes()).unwrap();
            assert!(psql.wait().unwrap().success());
        }
        Err(error) => {
            eprintln!("SKIPPED running the script by psql: {error}");
            let mut session = Client::connect(&by_script, NoTls).unwrap();
            session.batch_execute(&schema_script()).unwrap();
        }
    }
    let (wanted, found) = (catalog(&by_store), catalog(&by_script));
    assert!(wanted.len() > 100, "{} things", wanted.len());
    assert_eq!(wanted, found);
    let place = Place { url: by_script };
    let mut session = place.session();
    assert_eq!(ask(&mut session, &save(10, "NULL", 10)), Some(1));
    let store = place.store();
    assert_eq!(block_on(store.load(NAME)).unwrap().len(), 1);
    assert_eq!(granted(rust_claim(&*store, false)).epoch, Epoch(1));
}

/// Programs in other languages have no `--again`.
#[test]
fn a_pause_and_a_cancel_are_lifted_by_the_function() {
    let Some(place) = Place::new() else { return };
    let (mut session, store) = (place.session(), place.store());
    let event = Event {
        id: 0,
        pipeline: NAME.to_owned(),
        at: Timestamp::now(),
        who: "me".to_owned(),
        what: "stops".to_owned(),
        detail: String::new(),
    };
    let resume = format!("resume_processor('{NAME}')");
    assert!(!is_true(&mut session, &resume), "there is none");
    let epoch = claim(&mut session, "a").unwrap();
    assert!(!is_true(&mut session, &resume), "it runs");
    assert!(is_true(&mut session, &format!("release_processor('{NAME}', {epoch})")));
    for control in [Control::Pause, Control::Cancel] {
        block_on(store.set_control(NAME, control, event.clone())).unwrap();
        assert_eq!(claim(&mut session, "a"), None, "{control:?}");
        assert!(is_true(&mut session, &resume));
        let epoch = claim(&mut session, "a").unwrap();
        assert!(is_true(&mut session, &format!("release_processor('{NAME}', {epoch})")));
    }
    assert_eq!(block_on(store.pipelines()).unwrap()[0].control, Control::Run);
    let lifted = block_on(store.events(NAME, 10)).unwrap();
    assert_eq!(lifted.iter().filter(|event| event.what == "resume").count(), 2);
    block_on(store.snapshot()).unwrap();
}

/// A pipeline's checkpoints are moved by its runs alone, also where its sink has a processor's name.
#[test]
fn a_pipeline_is_no_processor() {
    let Some(place) = Place::new() else { return };
    let (mut session, store) = (place.session(), place.store());
    let record = PipelineRecord {
        pipeline: NAME.to_owned(),
        source: r#"{"postgres_outbox":{}}"#.to_owned(),
        transforms: "[]".to_owned(),
        sinks: "[]".to_owned(),
        control: Control::Run,
        file: None,
    };
    block_on(store.register(record)).unwrap();
    for call in [save(10, "NULL", 10), format!("claim_processor('{NAME}', 'a', '1 min')")] {
        let refused = session.query_one(&format!("SELECT {call}"), &[]).unwrap_err();
        let said = refused.as_db_error().map_or(String::new(), |error| error.message().to_owned());
        assert!(said.contains("is a pipeline or job of this store"), "{call}: {refused:?}");
    }
    assert_eq!(block_on(store.load(NAME)).unwrap(), []);
}
