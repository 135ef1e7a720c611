//! An owner in a process of its own: this very test program, started again with a variable that
//! says where the store is. Each program that uses this has a test `owner` that calls [`serve`].

#![allow(dead_code, reason = "not every test uses all of it")]

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Claim, ClaimAnswer, ClaimRequest, Epoch, Holder, Saved, Store};
use piton_stores::Mode;

use crate::scratch;

const STORE: &str = "PITON_TEST_STORE";

fn open(url: &str, mode: Mode) -> Arc<dyn Store> {
    piton_stores::open(url, Path::new("/"), mode).unwrap()
}

/// The child: claims, saves once, and then renews and saves whenever it is told to.
pub(crate) fn serve() {
    let Ok(url) = env::var(STORE) else { return };
    let store = open(&url, Mode::Existing);
    let claim = scratch::claim(&*store);
    scratch::advance(&*store, &claim, "0", 1);
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
pub(crate) struct Owner {
    pub(crate) child: Child,
    stdin: ChildStdin,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Owner {
    pub(crate) fn start(url: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "owner", "--nocapture"])
            .env(STORE, url)
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

    pub(crate) fn go_on(&mut self) -> String {
        self.stdin.write_all(b"\n").unwrap();
        self.wait_for("{")
    }

    pub(crate) fn signal(&self, signal: &str) {
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

fn ask(store: &dyn Store, silent: Option<Holder>) -> ClaimAnswer {
    block_on(store.claim(ClaimRequest { silent, ..scratch::request() })).unwrap()
}

pub(crate) fn held(store: &dyn Store) -> Holder {
    match ask(store, None) {
        ClaimAnswer::Held(holder) => holder,
        ClaimAnswer::Granted { claim, .. } => panic!("granted: {claim:?}"),
    }
}

/// A claim that is granted at once. Another test may just be starting a process, which has a copy
/// of every descriptor until it runs its own program, and a busy server sees a moment later that a
/// connection was cut, so a few tries are as good as one.
pub(crate) fn granted(store: &dyn Store, silent: Option<&Holder>) -> (Claim, Option<Holder>) {
    for _ in 0..500 {
        if let ClaimAnswer::Granted { claim, died } = ask(store, silent.cloned()) {
            return (claim, died);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("held by {}", held(store));
}

/// A killed owner is replaced at once, however long its lease, and its heir is told.
pub(crate) fn is_replaced_at_once_when_killed(url: &str) {
    let store = &*open(url, Mode::Create);
    let mut owner = Owner::start(url);
    let pid = owner.child.id();
    assert_eq!(held(store).owner.pid, pid);
    owner.child.kill().unwrap();
    owner.child.wait().unwrap();

    let begin = Instant::now();
    let (claim, died) = granted(store, None);
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
pub(crate) fn is_fenced_when_it_wakes(url: &str) {
    let store = &*open(url, Mode::Create);
    let mut owner = Owner::start(url);
    let awake = held(store);
    let said = owner.go_on();
    assert!(said.contains("Ignored Stored { version: 2 }"), "{said}");

    owner.signal("-STOP");
    let silent = held(store);
    assert_eq!(silent.renewals, awake.renewals + 1);
    assert!(matches!(ask(store, Some(awake)), ClaimAnswer::Held(_)), "it has stirred since");
    let (heir, died) = granted(store, Some(&silent));
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
