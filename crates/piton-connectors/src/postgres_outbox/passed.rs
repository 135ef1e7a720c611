//! Deleting what every reader has passed.
//!
//! A pipeline knows what its own sinks have passed, and nothing of others that read the same
//! outbox. So each pipeline with `delete_passed` notes its position in a table beside the outbox,
//! and only what lies below the lowest of them is deleted, by whichever comes to it. A reader that
//! is not in the table is not waited for, but cannot be harmed without a word: the table also says
//! up to where was deleted, and a position below that is a gap.
//!
//! The message at the lowest position itself stays: by it a server that took over is seen to have
//! received everything.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use postgres::{Client, Error, Transaction};

use super::{
    position::OutboxPosition,
    session::{Outbox, Trouble},
    settings::OutboxSettings,
    statements::{quote, quoted_table},
    values::Xid,
};

/// How often a reader's position is noted.
const NOTE: Duration = Duration::from_secs(1);
/// Messages deleted in one transaction. It has an id of its own and so holds back every reader
/// while it is open: it has to be short.
const AT_ONCE: i64 = 1000;
/// Between two such transactions this many times their length passes.
const REST: u32 = 4;
/// How long the last note of a run may take.
const LAST_NOTE: Duration = Duration::from_secs(2);

/// The table of readers of an outbox, quoted: in the outbox's schema.
fn readers_table(settings: &OutboxSettings) -> String {
    match settings.table.rsplit_once('.') {
        Some((schema, _)) => format!("{}.{READERS}", quoted_table(schema)),
        None => READERS.to_owned(),
    }
}

const READERS: &str = "piton_outbox_readers";
