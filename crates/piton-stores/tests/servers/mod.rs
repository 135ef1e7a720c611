//! What only a server can show, the same for every one of them: restarts, lost connections, two
//! who begin at once, and what is wrong with a server or an account.

#![allow(dead_code, reason = "not every test uses all of it")]

use std::{
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{
    CheckpointKey, Claim, ClaimAnswer, ClaimRequest, DeadLetter, Epoch, OrderKind, Save, Saved,
    Store, StoreError,
};
use piton_stores::{MemoryStore, Mode, conformance::Harness};
use piton_testkit::service::{self, Cut, Options, Server, ServiceError};

use crate::{owner, scratch};

/// A kind of server.
pub(crate) trait System: 'static {
    fn options() -> Options;
    fn shared() -> Result<&'static Server, &'static ServiceError>;

    /// A request as it goes to the server, and a text in the answer that says it is done.
    const COMMIT: (&str, &str);
    /// What is in the answer to a save.
    const SAVED: &str;
    /// What a URL says so that nothing is encrypted: a proxy has to find texts.
    const PLAIN: &str;
    /// After how long a connection that has answered is not trusted to stand.
    const FRESH: Duration;

    /// Runs statements as a person with a SQL shell does.
    fn shell(url: &str, sql: &str) -> Result<(), String>;
}

pub(crate) fn open(url: &str, mode: Mode) -> Result<Arc<dyn Store>, StoreError> {
    piton_stores::open(url, Path::new("/"), mode)
}

fn created(url: &str) -> Arc<dyn Store> {
    open(url, Mode::Create).unwrap()
}

/// The error of opening what must not be opened.
pub(crate) fn refused(url: &str, mode: Mode) -> StoreError {
    open(url, mode).map(|store| store.location()).unwrap_err()
}

/// A database of its own on the server that all tests of a program share; where there can be no
/// server, memory, and a word that the test was skipped.
pub(crate) enum Place<S> {
    Database(String, std::marker::PhantomData<S>),
    Skipped(Arc<MemoryStore>),
}

impl<S: System> Harness for Place<S> {
    fn fresh() -> Self {
        match service::needed(S::shared()) {
            Some(server) => Self::Database(server.database().unwrap(), std::marker::PhantomData),
            None => Self::Skipped(Arc::new(MemoryStore::new())),
        }
    }

    fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Database(url, _) => created(url),
            Self::Skipped(store) => store.clone(),
        }
    }
}

/// The shared server's database of a test; none where the test is to be skipped.
pub(crate) fn database<S: System>() -> Option<String> {
    service::needed(S::shared()).map(|server| server.database().unwrap())
}

/// A server that the test may do with as it likes.
pub(crate) fn own<S: System>(options: Options) -> Option<(Server, String)> {
    let server = service::needed(options.start())?;
    let url = server.database().unwrap();
    Some((server, url))
}

/// The URL of a database for another account.
pub(crate) fn account(url: &str, account: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap();
    format!("{scheme}://{account}@{}", rest.split_once('@').unwrap().1)
}

fn save(store: &dyn Store, claim: &Claim, save: Save) -> Result<Saved, StoreError> {
    block_on(store.save(claim, vec![save], Timestamp::UNIX_EPOCH)).map(|saved| saved[0].clone())
}

fn position(store: &dyn Store) -> Option<u64> {
    let rows = block_on(store.load("orders")).unwrap();
    rows.first().and_then(|row| row.position.as_ref()).map(|at| at.read().unwrap())
}

/// Who only asks makes nothing; of many who begin at the same moment, all find one whole store.
pub(crate) fn who_creates_at_once_agrees_on_one_store<S: System>() {
    for _ in 0..3 {
        let Some(url) = database::<S>() else { return };
        let missing = refused(&url, Mode::Existing);
        assert!(matches!(missing, StoreError::Missing { .. }), "{missing:?}");
        let missing = refused(&url, Mode::Existing);
        assert!(matches!(missing, StoreError::Missing { .. }), "it was not made: {missing:?}");
        thread::scope(|scope| {
            let claim = |partition: usize| {
                let store = created(&url);
                let partition = partition.to_string();
                let request = ClaimRequest { partition, ..scratch::request() };
                let answer = block_on(store.claim(request)).unwrap();
                assert!(matches!(answer, ClaimAnswer::Granted { .. }), "{answer:?}");
            };
            let threads: Vec<_> = (0..6).map(|n| scope.spawn(move || claim(n))).collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        let taken = block_on(open(&url, Mode::Existing).unwrap().snapshot()).unwrap();
        assert_eq!(taken.epochs.len(), 6, "every claim is in the one store");
    }
}

/// Owners of different partitions do not disturb one another, and what they write adds up.
pub(crate) fn many_owners_of_one_pipeline<S: System>() {
    let Some(url) = database::<S>() else { return };
    drop(created(&url));
    thread::scope(|scope| {
        for partition in ["a", "b", "c", "d"] {
            let url = &url;
            scope.spawn(move || {
                let store = created(url);
                let request = ClaimRequest { partition: partition.into(), ..scratch::request() };
                let answer = block_on(store.claim(request)).unwrap();
                let ClaimAnswer::Granted { claim, .. } = answer else { panic!("{answer:?}") };
                scratch::advance(&*store, &claim, partition, 25);
                block_on(store.release(&claim)).unwrap();
            });
        }
    });
    // Compared with the manifest: no change of it was lost.
    let rows = block_on(created(&url).load("orders")).unwrap();
    assert_eq!(rows.iter().map(|row| row.version).collect::<Vec<_>>(), [25; 4]);
}

/// The server is stopped and started again, or killed: the next call goes on, and the claim is
/// still held, also for a rival who asks before its owner has come back.
pub(crate) fn a_restart_takes_no_claim_away<S: System>() {
    let Some((mut server, url)) = own::<S>(S::options()) else { return };
    let store = created(&url);
    let claim = scratch::claim(&*store);
    for version in 0..4 {
        if version % 2 == 0 {
            server.stop().unwrap();
        } else {
            server.kill().unwrap();
        }
        server.start_again().unwrap();
        let rival = open(&url, Mode::Existing).unwrap();
        assert_eq!(owner::held(&*rival).epoch, claim.epoch);
        thread::sleep(S::FRESH);
        let saved = save(&*store, &claim, scratch::save("0", version, version + 1)).unwrap();
        assert_eq!(saved, Saved::Stored { version: version + 1 });
    }
    // Long enough for owners to come back: by now it is the lock that speaks.
    thread::sleep(Duration::from_secs(11));
    let rival = open(&url, Mode::Existing).unwrap();
    assert_eq!(owner::held(&*rival).epoch, claim.epoch);
    assert_eq!(block_on(rival.holders("orders")).unwrap().len(), 1);
    drop((claim, store));
    assert!(owner::granted(&*rival, None).1.is_some(), "and it is free once its owner is gone");
}

/// A call that comes while the server is away waits for it.
pub(crate) fn a_call_waits_for_a_server_that_is_restarted<S: System>() {
    let Some((mut server, url)) = own::<S>(S::options()) else { return };
    let store = created(&url);
    let claim = scratch::claim(&*store);
    server.stop().unwrap();
    thread::sleep(S::FRESH);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| save(&*store, &claim, scratch::save("0", 0, 1)));
        thread::sleep(Duration::from_secs(1));
        assert!(!waiting.is_finished());
        server.start_again().unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), Saved::Stored { version: 1 });
    });
}

/// A server that hangs is not waited for for ever.
pub(crate) fn a_server_that_hangs_is_noticed<S: System>() {
    let Some((server, url)) = own::<S>(S::options()) else { return };
    let store = created(&url);
    let claim = scratch::claim(&*store);
    server.freeze().unwrap();
    let begin = Instant::now();
    let answer = save(&*store, &claim, scratch::save("0", 0, 1));
    assert!(matches!(answer, Err(StoreError::InDoubt { .. })), "{answer:?}");
    assert!(begin.elapsed() < Duration::from_mins(1), "{:?}", begin.elapsed());
    server.thaw().unwrap();
}

/// A store behind a network that can be cut.
struct Behind {
    cut: Cut,
    store: Arc<dyn Store>,
    claim: Claim,
    url: String,
}

fn behind<S: System>() -> Option<Behind> {
    let server = service::needed(S::shared())?;
    let url = server.database().unwrap();
    let cut = Cut::before(server.address()).unwrap();
    let store = created(&format!("{}{}", cut.url(&url), S::PLAIN));
    let claim = scratch::claim(&*store);
    scratch::advance(&*store, &claim, "0", 1);
    Some(Behind { cut, store, claim, url })
}

impl Behind {
    /// Nothing more is done under a claim of which a commit is in doubt. A new claim fences what
    /// may still be under way, and only then is it known what is stored.
    fn fence_and_read(&self, stored: Option<u64>) {
        let next = save(&*self.store, &self.claim, scratch::save("9", 0, 1));
        assert!(matches!(next, Err(StoreError::InDoubt { .. })), "{next:?}");
        let renewed = block_on(self.store.renew(&self.claim));
        assert!(matches!(renewed, Err(StoreError::InDoubt { .. })), "{renewed:?}");
        let silent = Some(owner::held(&*self.store));
        let request = ClaimRequest { silent, ..scratch::request() };
        let answer = block_on(self.store.claim(request)).unwrap();
        let ClaimAnswer::Granted { claim, died } = answer else { panic!("{answer:?}") };
        assert_eq!((claim.epoch, died), (Epoch(2), None), "nobody died");
        assert_eq!(position(&*self.store), stored);
        let version = stored.unwrap_or_default();
        let next = scratch::save("0", version, version + 1);
        let went_on = save(&*self.store, &claim, next).unwrap();
        assert_eq!(went_on, Saved::Stored { version: version + 1 });
        assert!(self.cut.cuts() > 0, "the connection was never cut");
    }
}

/// Invariant 7: a save whose answer is lost is in doubt, whether it was done or not.
pub(crate) fn a_save_in_doubt_is_fenced_and_read<S: System>() {
    for is_done in [true, false] {
        let Some(behind) = behind::<S>() else { return };
        let mut next = scratch::save("0", 1, 2);
        next.sink_state = Some("\"the last words\"".into());
        if is_done {
            behind.cut.lose_answer("the last words", S::SAVED);
        } else {
            behind.cut.lose_request("the last words");
        }
        let doubt = save(&*behind.store, &behind.claim, next);
        assert!(matches!(doubt, Err(StoreError::InDoubt { .. })), "{is_done}: {doubt:?}");
        behind.fence_and_read(if is_done { Some(2) } else { Some(1) });
    }
}

/// The same of a transaction of several statements.
pub(crate) fn a_commit_in_doubt_is_fenced_and_read<S: System>() {
    for is_done in [true, false] {
        let Some(behind) = behind::<S>() else { return };
        let (request, answer) = S::COMMIT;
        if is_done {
            behind.cut.lose_answer(request, answer);
        } else {
            behind.cut.lose_request(request);
        }
        let doubt = block_on(behind.store.complete(&behind.claim, None));
        assert!(matches!(doubt, Err(StoreError::InDoubt { .. })), "{is_done}: {doubt:?}");
        behind.fence_and_read(if is_done { None } else { Some(1) });
    }
}

/// What is as good done twice as once is done again, and nobody is told of the lost connection:
/// not even that somebody died, when a claim was granted to an answer that nobody heard.
pub(crate) fn what_may_be_repeated_is_repeated<S: System>() {
    for is_done in [true, false] {
        let Some(behind) = behind::<S>() else { return };
        let lose = || {
            let (request, answer) = S::COMMIT;
            if is_done {
                behind.cut.lose_answer(request, answer);
            } else {
                behind.cut.lose_request(request);
            }
        };
        lose();
        assert_eq!(block_on(behind.store.renew(&behind.claim)).unwrap(), Saved::Ignored);
        lose();
        block_on(behind.store.release(&behind.claim)).unwrap();
        lose();
        let (heir, died) = owner::granted(&*behind.store, None);
        let epoch = if is_done { 3 } else { 2 };
        assert_eq!((heir.epoch, died), (Epoch(epoch), None));
        assert_eq!(behind.cut.cuts(), 3);
        let beside = created(&behind.url);
        assert_eq!(owner::held(&*beside).epoch, heir.epoch, "its lock is on the new connection");
        drop(heir);
        assert!(owner::granted(&*beside, None).1.is_some(), "and no other is left behind");
    }
}

/// A connection that is cut while nothing is asked for is made again by itself, with the locks.
pub(crate) fn an_idle_owner_comes_back_by_itself<S: System>() {
    let Some(behind) = behind::<S>() else { return };
    let before = behind.cut.connections();
    behind.cut.now();
    let begin = Instant::now();
    while behind.cut.connections() == before {
        assert!(begin.elapsed() < Duration::from_secs(10), "it did not come back");
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(Duration::from_millis(500));
    assert_eq!(owner::held(&*created(&behind.url)).epoch, behind.claim.epoch);
}

/// A save of 1,000 partitions is one round trip: all of the request has gone before the first byte
/// of the answer is heard.
pub(crate) fn a_thousand_partitions_are_one_round_trip<S: System>() {
    let Some(behind) = behind::<S>() else { return };
    let saves = |version: u64| -> Vec<Save> {
        (0..1000).map(|n| scratch::save(&format!("partition-{n}"), version, version + 1)).collect()
    };
    let stored = |saved: Vec<Saved>| assert!(saved.iter().all(Saved::is_stored), "{saved:?}");
    let mut times = Vec::new();
    for version in 0..10 {
        let begin = Instant::now();
        let saved = block_on(behind.store.save(&behind.claim, saves(version), Timestamp::now()));
        times.push(begin.elapsed());
        stored(saved.unwrap());
    }
    times.sort();
    println!("save of 1,000 partitions: median {:?}, slowest {:?}", times[5], times[9]);

    let (sent, cut) = (behind.cut.sent(), &behind.cut);
    cut.hold_answers();
    thread::scope(|scope| {
        let save = || behind.store.save(&behind.claim, saves(10), Timestamp::now());
        let saving = scope.spawn(move || block_on(save()).unwrap());
        while !cut.is_holding() {
            thread::sleep(Duration::from_millis(1));
        }
        let at_first_answer = cut.sent();
        assert!(at_first_answer > sent + 100_000, "all of it went at once");
        cut.let_go();
        stored(saving.join().unwrap());
        assert_eq!(cut.sent(), at_first_answer, "nothing went after the answer began");
    });
    assert_eq!(block_on(behind.store.load("orders")).unwrap().len(), 1001);
}

/// Names that differ in case, in an accent, in a space at the end are different names.
pub(crate) fn names_are_what_they_are<S: System>() {
    let Some(url) = database::<S>() else { return };
    let store = created(&url);
    let claim = scratch::claim(&*store);
    let names = ["a", "A", "á", "a ", "a\u{301}", "\u{1F9D7}", "it's \"a\" \\ ?", ""];
    let saves: Vec<Save> = names.iter().map(|name| scratch::save(name, 0, 1)).collect();
    let saved = block_on(store.save(&claim, saves, Timestamp::now())).unwrap();
    assert!(saved.iter().all(Saved::is_stored), "{saved:?}");
    let mut found: Vec<String> =
        block_on(store.load("orders")).unwrap().into_iter().map(|row| row.key.partition).collect();
    found.sort();
    let mut wanted = names.to_vec();
    wanted.sort_unstable();
    assert_eq!(found, wanted);
    for name in names {
        let next = save(&*store, &claim, scratch::save(name, 1, 2));
        assert_eq!(next.unwrap(), Saved::Stored { version: 2 }, "{name:?}");
    }
    // Long, and not to be compressed.
    let words: Vec<String> = (1..2000_u64).map(|n| n.pow(5).reverse_bits().to_string()).collect();
    let long = words.concat();
    let too_long = save(&*store, &claim, scratch::save(&long, 0, 1));
    assert!(matches!(too_long, Err(StoreError::Refused { .. })), "{too_long:?}");
}

/// A record of any bytes can be set aside, also one with characters that a database cannot keep.
pub(crate) fn any_record_can_be_set_aside<S: System>() {
    let Some(url) = database::<S>() else { return };
    let store = created(&url);
    let letter = DeadLetter {
        pipeline: "orders".into(),
        sink: "out".into(),
        id: "0@1".into(),
        partition: "0".into(),
        place: "line 1".into(),
        reason: "has \0 in it".into(),
        record: "a\0b\u{1}\u{FFFF}".into(),
        at: Timestamp::UNIX_EPOCH,
    };
    assert_eq!(block_on(store.set_aside(vec![letter])).unwrap(), 1);
    let found = block_on(store.dead_letters("orders")).unwrap();
    assert_eq!(found[0].record, "a\u{FFFD}b\u{1}\u{FFFF}");
}

/// Invariant 2: deleting a checkpoint by hand is a reset, recorded and ordered as one, also while
/// the pipeline runs; whoever runs it cannot go on from what is gone.
pub(crate) fn deleting_a_checkpoint_by_hand_is_a_reset<S: System>() {
    let Some(url) = database::<S>() else { return };
    let store = created(&url);
    let claim = scratch::claim(&*store);
    scratch::advance(&*store, &claim, "0", 3);
    scratch::advance(&*store, &claim, "1", 1);
    let mut with_state = scratch::save("0", 3, 4);
    with_state.state = vec![piton_core::StateEntry { key: "k".into(), json: Some("1".into()) }];
    let key = with_state.key.clone();
    assert!(save(&*store, &claim, with_state).unwrap().is_stored());

    S::shell(&url, "DELETE FROM checkpoints WHERE sink = 'out' AND version = 4").unwrap();
    let left = block_on(store.load("orders")).unwrap();
    assert_eq!((left.len(), left[0].key.partition.as_str()), (1, "1"), "the manifest agrees");
    assert_eq!(block_on(store.state(&key, None)).unwrap(), []);
    let orders = block_on(store.orders("orders")).unwrap();
    assert_eq!(orders.len(), 1);
    assert_eq!((orders[0].kind, orders[0].who.as_str()), (OrderKind::Reset, "sql shell"));
    assert_eq!((orders[0].partition.as_str(), orders[0].sink.as_str()), ("0", "out"));
    let event = &block_on(store.events("orders", 1)).unwrap()[0];
    assert_eq!((event.what.as_str(), event.who.as_str()), ("reset", "sql shell"));
    assert_eq!(block_on(store.history("orders", 1)).unwrap()[0].version, 4);

    let next = save(&*store, &claim, scratch::save("0", 4, 5)).unwrap();
    assert_eq!(next, Saved::Mismatch { stored: None });
    block_on(store.applied(&claim, vec![orders[0].id], Timestamp::now())).unwrap();
    assert_eq!(block_on(store.orders("orders")).unwrap(), []);
    scratch::advance(&*store, &claim, "0", 2);

    S::shell(&url, "DELETE FROM checkpoints").unwrap();
    assert_eq!(block_on(store.load("orders")).unwrap(), []);
    assert_eq!(block_on(store.orders("orders")).unwrap().len(), 2);
    let taken = block_on(store.snapshot()).unwrap();
    assert_eq!((taken.checkpoints.len(), taken.orders.len()), (0, 3));
}

/// A store with something in the tables that decide.
fn filled<S: System>() -> Option<String> {
    let url = database::<S>()?;
    let store = created(&url);
    let claim = scratch::claim(&*store);
    scratch::advance(&*store, &claim, "0", 2);
    scratch::advance(&*store, &claim, "1", 1);
    let mut with_state = scratch::save("0", 2, 3);
    with_state.state = vec![piton_core::StateEntry { key: "k".into(), json: Some("1".into()) }];
    assert!(save(&*store, &claim, with_state).unwrap().is_stored());
    block_on(store.register(piton_core::PipelineRecord {
        pipeline: "orders".into(),
        source: "{}".into(),
        transforms: "[]".into(),
        sinks: "{}".into(),
        control: piton_core::Control::Run,
        file: None,
    }))
    .unwrap();
    block_on(store.release(&claim)).unwrap();
    Some(url)
}

pub(crate) fn what_must_not_be_done_by_hand_says_what_to_do_instead<S: System>() {
    let Some(url) = filled::<S>() else { return };
    let before = block_on(created(&url).snapshot()).unwrap();
    for (sql, hint) in [
        ("UPDATE checkpoints SET position = '9'", "piton rewind"),
        ("UPDATE checkpoints SET version = 9, checksum = 9", "piton rewind"),
        ("INSERT INTO checkpoints SELECT * FROM checkpoints", "piton rewind"),
        ("UPDATE state SET json = '9'", "belongs to a position"),
        ("UPDATE pipelines SET control = 'cancel'", "piton pause"),
        ("DELETE FROM pipelines", "piton reset"),
        ("UPDATE claims SET epoch = 0", "leave them alone"),
        ("DELETE FROM claims", "leave them alone"),
    ] {
        let refused = S::shell(&url, sql).unwrap_err();
        assert!(refused.contains(hint), "{sql}: {refused}");
    }
    assert_eq!(block_on(created(&url).snapshot()).unwrap(), before);
}

/// Invariant 4: rows that are missing or altered, whoever did it, are damage and never a pipeline
/// that never ran. `as_store` is what makes a session pass for one of the store's own.
pub(crate) fn what_is_missing_is_damage<S: System>(as_store: &str, more: &[(&str, &str)]) {
    let common = [
        ("DELETE FROM checkpoints", "load"),
        ("DELETE FROM checkpoints WHERE version = 1", "load"),
        ("UPDATE checkpoints SET version = 7 WHERE version = 1", "load"),
        ("UPDATE checkpoints SET position = '9' WHERE version = 1", "load"),
        ("DELETE FROM manifest", "load"),
        ("DELETE FROM manifest; DELETE FROM checkpoints", "load"),
        ("DELETE FROM claims", "claim"),
        ("UPDATE claims SET epoch = 0", "claim"),
        ("DELETE FROM state", "state"),
        ("DELETE FROM pipelines", "pipelines"),
        ("DELETE FROM meta", "open"),
    ];
    for (sql, ask) in common.iter().chain(more) {
        let Some(url) = filled::<S>() else { return };
        S::shell(&url, &format!("{as_store}; {sql}")).unwrap();
        let found = open(&url, Mode::Existing).and_then(|store| look(&*store, ask));
        assert!(matches!(found, Err(StoreError::Damaged { .. })), "{sql}: {found:?}");
    }
}

/// Asks for one thing; the answer does not matter.
fn look(store: &dyn Store, what: &str) -> Result<(), StoreError> {
    let key = CheckpointKey::new("orders", "0", "out");
    match what {
        "load" => block_on(store.load("orders")).map(drop),
        "claim" => block_on(store.claim(scratch::request())).map(drop),
        "state" => block_on(store.state(&key, Some("none"))).map(drop),
        "pipelines" => block_on(store.pipelines()).map(drop),
        _ => Ok(()),
    }
}

/// A store of a newer format is refused, and so is what is somebody else's.
pub(crate) fn what_is_no_store_of_this_format_is_refused<S: System>(foreign: &str) {
    let Some(url) = filled::<S>() else { return };
    S::shell(&url, "UPDATE meta SET format = 99").unwrap();
    for mode in [Mode::Existing, Mode::Create] {
        let error = refused(&url, mode);
        assert!(matches!(error, StoreError::Newer { found: 99, .. }), "{error:?}");
    }
    let Some(url) = database::<S>() else { return };
    S::shell(&url, foreign).unwrap();
    for mode in [Mode::Existing, Mode::Create] {
        let error = refused(&url, mode);
        assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    }
}

/// What is wrong is named, and what to do about it; never a password.
pub(crate) fn says(error: &StoreError, words: &[&str]) {
    let told = error.to_string();
    for word in words {
        assert!(told.contains(word), "'{word}' is not in: {told}");
    }
    assert!(!told.contains("s3cret") && !format!("{error:?}").contains("s3cret"), "{told}");
}
