//! Whether an owner lives is a lock's answer: shown with processes that are killed and stopped.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says no by panicking")]
#![cfg(unix)]

mod owner;
mod scratch;

use std::process::{Command, Stdio};

use piton_stores::{Mode, SqlStore};

/// The other process.
#[test]
fn owner() {
    owner::serve();
}

#[test]
fn a_killed_owner_is_replaced_at_once() {
    let folder = scratch::folder();
    owner::is_replaced_at_once_when_killed(&url(&folder));
}

#[test]
fn a_stopped_owner_is_fenced_when_it_wakes() {
    let folder = scratch::folder();
    owner::is_fenced_when_it_wakes(&url(&folder));
}

fn url(folder: &tempfile::TempDir) -> String {
    format!("sqlite:{}", folder.path().join("piton.db").display())
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
    let _ = owner::held(&store);
    command.kill().unwrap();
    command.wait().unwrap();
    let (_, died) = owner::granted(&store, None);
    assert!(died.is_some());
}
