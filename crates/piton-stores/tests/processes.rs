//! Whether an owner lives is a lock's answer: shown with processes that are killed and stopped.
//!
//! The owner is this very test program, started again with a variable that says where the store is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(unix)]

mod scratch;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    time::{Duration, Instant},
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Claim, ClaimAnswer, ClaimRequest, Epoch, Holder, Saved, Store};
use piton_stores::{Mode, SqlStore};

const STORE: &str = "PITON_TEST_STORE";

/// The child: claims, saves once, and then renews and saves whenever it is told to.
#[test]
fn owner() {
    let Ok(path) = env::var(STORE) else { return };
    let store = SqlStore::sqlite(Path::new(&path), Mode::Existing).unwrap();
    let claim = scratch::claim(&store);
    scratch::advance(&store, &claim, "0", 1);
    println!("working");
    for (line, version) in std::io::stdin().lines().zip(1..) {
        line.unwrap();
        let renewed = block_on(store.renew(&claim)).unwrap();
        let save = scratch::save("0", version, version + 1);
        let saved = block_on(store.save(&claim, vec![save], Timestamp::UNIX_EPOCH)).unwrap();
        println!("{renewed:?} {:?}", saved[0]);
    }
}

/// An owner in a process of its own, killed at the latest when the test ends.
struct Owner {
    child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Owner {
    fn start(path: &Path) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "owner", "--nocapture"])
            .env(STORE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take().unwrap();
        let mut owner = Self { child, stdin, lines };
        owner.wait_for("working");
        owner
    }

    fn wait_for(&mut self, word: &str) -> String {
        // The harness's own words stand on the line, too.
        self.lines.by_ref().map(Result::unwrap).find(|line| line.contains(word)).unwrap()
    }

    fn go_on(&mut self) -> String {
        self.stdin.write_all(b"\n").unwrap();
        self.wait_for("{")
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ask(store: &SqlStore, silent: Option<Holder>) -> ClaimAnswer {
    block_on(store.claim(ClaimRequest { silent, ..scratch::request() })).unwrap()
}

fn held(store: &SqlStore) -> Holder {
    match ask(store, None) {
        ClaimAnswer::Held(holder) => holder,
        ClaimAnswer::Granted { claim, .. } => panic!("granted: {claim:?}"),
    }
}

/// A claim that is granted at once. Another test may just be starting a process, which has a copy
/// of every descriptor until it runs its own program, so a few tries are as good as one.
fn granted(store: &SqlStore, silent: Option<&Holder>) -> (Claim, Option<Holder>) {
    for _ in 0..100 {
        if let ClaimAnswer::Granted { claim, died } = ask(store, silent.cloned()) {
            return (claim, died);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("held by {}", held(store));
}

/// A killed owner is replaced at once, however long its lease, and its heir is told.
#[test]
fn a_killed_owner_is_replaced_at_once() {
    let folder = scratch::folder();
    let path = folder.path().join("piton.db");
    let store = SqlStore::sqlite(&path, Mode::Create).unwrap();
    let mut owner = Owner::start(&path);
    let pid = owner.child.id();
    assert_eq!(held(&store).owner.pid, pid);
    owner.child.kill().unwrap();
    owner.child.wait().unwrap();

    let begin = Instant::now();
    let (claim, died) = granted(&store, None);
    assert!(begin.elapsed() < Duration::from_secs(5), "a lease of 30 s was not waited for");
    assert_eq!(died.map(|died| died.owner.pid), Some(pid));
    assert_eq!(claim.epoch, Epoch(2));
    let rows = block_on(store.load("orders")).unwrap();
    assert_eq!(rows[0].version, 1, "what it was told to be stored is stored");
    let next = scratch::save("0", 1, 2);
    let saved = block_on(store.save(&claim, vec![next], Timestamp::UNIX_EPOCH)).unwrap();
    assert_eq!(saved, [Saved::Stored { version: 2 }]);
}

/// Invariants 3 and 9: a stopped owner keeps its claim until it is named silent; then its heir goes
/// on, and whatever it does when it wakes changes nothing.
#[test]
fn a_stopped_owner_is_fenced_when_it_wakes() {
    let folder = scratch::folder();
    let path = folder.path().join("piton.db");
    let store = SqlStore::sqlite(&path, Mode::Create).unwrap();
    let mut owner = Owner::start(&path);
    let awake = held(&store);
    let said = owner.go_on();
    assert!(said.contains("Ignored Stored { version: 2 }"), "{said}");

    owner.signal("-STOP");
    let silent = held(&store);
    assert_eq!(silent.renewals, awake.renewals + 1);
    assert!(matches!(ask(&store, Some(awake)), ClaimAnswer::Held(_)), "it has stirred since");
    let (heir, died) = granted(&store, Some(&silent));
    assert_eq!(died, None, "it is stopped, not dead");
    let next = scratch::save("0", 2, 3);
    let saved = block_on(store.save(&heir, vec![next], Timestamp::UNIX_EPOCH)).unwrap();
    assert_eq!(saved, [Saved::Stored { version: 3 }]);

    owner.signal("-CONT");
    let said = owner.go_on();
    let fenced = "Fenced { epoch: Epoch(2) }";
    assert!(said.contains(&format!("{fenced} {fenced}")), "{said}");
    let rows = block_on(store.load("orders")).unwrap();
    assert_eq!((rows[0].version, rows[0].epoch), (3, heir.epoch));
}

/// A command that inherits the lock's descriptor keeps the claim held after its starter is gone.
/// What a claim offers for that is the open file.
#[test]
fn a_lock_is_the_open_file_of_the_epoch() {
    let folder = scratch::folder();
    let store = SqlStore::sqlite(&folder.path().join("piton.db"), Mode::Create).unwrap();
    let claim = scratch::claim(&store);
    let file = claim.lock.as_ref().unwrap().downcast_ref::<std::fs::File>().unwrap();
    let inherited = Stdio::from(file.try_clone().unwrap());
    let mut command =
        Command::new("sleep").arg("60").stdin(Stdio::null()).stdout(inherited).spawn().unwrap();
    drop(claim);
    let _ = held(&store);
    command.kill().unwrap();
    command.wait().unwrap();
    let (_, died) = granted(&store, None);
    assert!(died.is_some());
}
