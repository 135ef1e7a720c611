//! Damage, byte by byte: a store either holds exactly what was put into it, or says that it does
//! not. Never a panic, never an altered position, epoch, version or order, never silent emptiness.
//!
//! SQLite's own check is not enough for this, which is why rows carry checksums and tables manifests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]

mod scratch;

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{
    Claim, ClaimAnswer, Control, DeadLetter, Event, Order, OrderKind, Output, PipelineRecord,
    Snapshot, StateEntry, Store, StoreError, StoredPosition,
};
use piton_stores::{Mode, SqlStore};
use rusqlite::Connection;

/// What a store holds, without runs and events: those are told to people, and decide nothing.
#[derive(Debug, Clone, PartialEq)]
struct Picture {
    all: Snapshot,
    loaded: Vec<piton_core::Checkpoint>,
    pending: Vec<Order>,
}

fn picture(path: &Path) -> Result<Picture, StoreError> {
    let store = SqlStore::sqlite(path, Mode::Existing)?;
    picture_of(&store)
}

fn picture_of(store: &SqlStore) -> Result<Picture, StoreError> {
    let mut all = block_on(store.snapshot())?;
    all.runs.clear();
    all.events.clear();
    block_on(store.holders("orders"))?;
    Ok(Picture {
        all,
        loaded: block_on(store.load("orders"))?,
        pending: block_on(store.orders("orders"))?,
    })
}

fn open(path: &Path) -> SqlStore {
    SqlStore::sqlite(path, Mode::Existing).unwrap()
}

/// A store with something in every table, on the smallest pages that SQLite has.
fn small(path: &Path) {
    let store = SqlStore::sqlite(path, Mode::Create).unwrap();
    let claim = scratch::claim(&store);
    fill(&store, &claim);
    block_on(store.release(&claim)).unwrap();
    drop(store);
    let shell = Connection::open(path).unwrap();
    // A reset by hand, which has no checksum of ours.
    shell.execute("DELETE FROM checkpoints WHERE partition = '2'", []).unwrap();
    shell.execute_batch("PRAGMA journal_mode = delete; PRAGMA page_size = 512; VACUUM").unwrap();
    drop(shell);
    drop(open(path));
}

fn fill(store: &SqlStore, claim: &Claim) {
    block_on(store.register(PipelineRecord {
        pipeline: "orders".into(),
        source: "{\"csv\":\"a.csv\"}".into(),
        transforms: "[]".into(),
        sinks: "{}".into(),
        control: Control::Run,
        file: None,
    }))
    .unwrap();
    for partition in ["0", "1", "2"] {
        scratch::advance(store, claim, partition, 2);
    }
    let mut save = scratch::save("0", 2, 3);
    save.state = vec![StateEntry { key: "sum".into(), json: Some("12".into()) }];
    save.sink_state = Some("{\"length\":7}".into());
    assert!(block_on(store.save(claim, vec![save], at(9))).unwrap()[0].is_stored());
    let event = |what: &str| Event {
        id: 0,
        pipeline: "orders".into(),
        at: at(9),
        who: "ann".into(),
        what: what.into(),
        detail: String::new(),
    };
    let order = Order {
        id: 0,
        pipeline: "orders".into(),
        partition: "1".into(),
        sink: "out".into(),
        kind: OrderKind::Rewind,
        position: StoredPosition::of(&1_u64).ok(),
        records: 1,
        sink_state: None,
        output: Some(Output::Keep),
        who: "ann".into(),
        at: at(9),
        applied_at: None,
    };
    block_on(store.order(vec![order.clone(), order], event("rewind"))).unwrap();
    let first = block_on(store.orders("orders")).unwrap()[0].id;
    block_on(store.applied(claim, vec![first], at(10))).unwrap();
    block_on(store.set_control("orders", Control::Pause, event("pause"))).unwrap();
    block_on(store.set_aside(vec![DeadLetter {
        pipeline: "orders".into(),
        sink: "out".into(),
        id: "0@2".into(),
        partition: "0".into(),
        place: "a.csv, line 2".into(),
        reason: "not a number".into(),
        record: "x".into(),
        at: at(2),
    }]))
    .unwrap();
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// One damaged file in a folder of its own, beside whatever else the store needs.
struct Patient {
    folder: tempfile::TempDir,
    db: Vec<u8>,
    wal: Option<Vec<u8>>,
}

impl Patient {
    fn path(&self) -> PathBuf {
        self.folder.path().join("piton.db")
    }

    /// What a store says that consists of these bytes.
    fn ask(&self, db: &[u8], wal: Option<&[u8]>) -> Result<Picture, StoreError> {
        let path = self.path();
        let beside = |suffix: &str| self.folder.path().join(format!("piton.db{suffix}"));
        let _ = fs::remove_file(beside("-shm"));
        match wal {
            Some(wal) => fs::write(beside("-wal"), wal).unwrap(),
            None => drop(fs::remove_file(beside("-wal"))),
        }
        fs::write(&path, db).unwrap();
        let said = picture(&path);
        if let Err(StoreError::Unusable { what, .. }) = &said {
            assert!(!what.contains("thread has ended"), "the store's thread panicked");
        }
        said
    }
}

/// How often the damaged store was as before, and how often it said what is wrong.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    same: usize,
    refused: usize,
}

impl Tally {
    /// Counts an answer, which must be one of what the store may hold.
    fn count(&mut self, said: Result<Picture, StoreError>, may: &[Picture], told: &str) {
        match said {
            Ok(picture) => {
                assert!(may.contains(&picture), "{told}: {picture:#?}");
                self.same += 1;
            }
            Err(_) => self.refused += 1,
        }
    }
}

/// Flips one bit in each byte, or in each of every `step` bytes, shared between threads. `ask` gets
/// the damaged bytes.
fn flip_all(
    bytes: &[u8],
    step: usize,
    may: &[Picture],
    patient: impl Fn() -> Patient + Sync,
    ask: impl Fn(&Patient, &[u8]) -> Result<Picture, StoreError> + Sync,
) -> Tally {
    const THREADS: usize = 2;
    let share = |thread: usize| {
        let (patient, mut tally) = (patient(), Tally::default());
        for offset in (thread * step..bytes.len()).step_by(THREADS * step) {
            let mut damaged = bytes.to_vec();
            damaged[offset] ^= 1 << (offset % 8);
            let said = ask(&patient, &damaged);
            tally.count(said, may, &format!("byte {offset}"));
        }
        tally
    };
    thread::scope(|scope| {
        let share = &share;
        let threads = [0, 1].map(|thread| scope.spawn(move || share(thread)));
        threads.into_iter().map(|thread| thread.join().unwrap()).fold(Tally::default(), |a, b| {
            Tally { same: a.same + b.same, refused: a.refused + b.refused }
        })
    })
}

/// Invariant 4, for every byte of a store that was closed.
#[test]
fn every_flipped_byte_of_a_store_is_noticed_or_changes_nothing() {
    let folder = scratch::folder();
    let path = folder.path().join("piton.db");
    small(&path);
    let db = fs::read(&path).unwrap();
    let whole = [picture(&path).unwrap()];
    assert_eq!((whole[0].loaded.len(), whole[0].pending.len()), (2, 2));
    let patient = || Patient { folder: scratch::folder(), db: Vec::new(), wal: None };
    let tally = flip_all(&db, 1, &whole, patient, |patient, db| patient.ask(db, None));
    println!("{} bytes flipped: {tally:?}", db.len());
    assert!(tally.same > 0 && tally.refused > db.len() / 3, "{tally:?}");

    let patient = patient();
    for length in (0..db.len()).step_by(512) {
        let said = patient.ask(&db[..length], None);
        assert!(said.is_err(), "cut at {length}: {said:#?}");
    }
}

/// A store as a killed process leaves it: part of it is in the log. Damage to the log may bring an
/// older state to light, which was once all there was; never another.
#[test]
fn every_flipped_byte_beside_a_log_gives_a_state_that_once_was() {
    let folder = scratch::folder();
    let path = folder.path().join("piton.db");
    small(&path);
    let store = open(&path);
    let mut once = vec![picture_of(&store).unwrap()];
    let claim = scratch::claim(&store);
    once.push(picture_of(&store).unwrap());
    for version in 3..6 {
        let saves = vec![scratch::save("0", version, version + 1)];
        assert!(block_on(store.save(&claim, saves, at(20))).unwrap()[0].is_stored());
        once.push(picture_of(&store).unwrap());
    }
    let db = fs::read(&path).unwrap();
    let wal = fs::read(folder.path().join("piton.db-wal")).unwrap();
    drop((claim, store));
    let patient = || Patient { folder: scratch::folder(), db: db.clone(), wal: Some(wal.clone()) };
    let newest = patient().ask(&db, Some(&wal)).unwrap();
    assert_eq!(Some(&newest), once.last(), "what is in the log is there");

    let of_log =
        flip_all(&wal, 1, &once, patient, |patient, wal| patient.ask(&patient.db, Some(wal)));
    println!("{} bytes of log flipped: {of_log:?}", wal.len());
    assert!(of_log.same > 0, "{of_log:?}");
    let of_file =
        flip_all(&db, 7, &once, patient, |patient, db| patient.ask(db, patient.wal.as_deref()));
    println!("of {} bytes of file every seventh flipped: {of_file:?}", db.len());
    assert!(of_file.refused > db.len() / 7 / 3, "{of_file:?}");

    let patient = patient();
    let mut tally = Tally::default();
    for length in (0..wal.len()).step_by(512) {
        tally.count(patient.ask(&db, Some(&wal[..length])), &once, &format!("log cut at {length}"));
    }
    for length in (0..db.len()).step_by(512) {
        let said = patient.ask(&db[..length], Some(&wal));
        tally.count(said, &once, &format!("file cut at {length}"));
    }
    println!("cuts: {tally:?}");
}

/// A claim is granted above every epoch there was, or not at all.
#[test]
fn no_damage_grants_an_epoch_twice() {
    let folder = scratch::folder();
    let path = folder.path().join("piton.db");
    small(&path);
    let db = fs::read(&path).unwrap();
    let granted = picture(&path).unwrap().all.epochs[0].2;
    let patient = Patient { folder: scratch::folder(), db: Vec::new(), wal: None };
    let mut answered = 0;
    for offset in (0..db.len()).step_by(7) {
        let mut damaged = db.clone();
        damaged[offset] ^= 1 << (offset % 8);
        if patient.ask(&damaged, None).is_err() {
            continue;
        }
        let store = open(&patient.path());
        match block_on(store.claim(scratch::request())) {
            Ok(ClaimAnswer::Granted { claim, .. }) => {
                assert_eq!(claim.epoch.0, granted.0 + 1, "byte {offset}");
                answered += 1;
            }
            Ok(ClaimAnswer::Held(holder)) => panic!("byte {offset}: held by {holder}"),
            Err(_) => {}
        }
    }
    assert!(answered > 0);
}
