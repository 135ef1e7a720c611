//! Claims: who may advance a partition, and the epoch that fences whoever could before.
//!
//! A claim is a lease with an epoch. The epoch grows with every claim and is compared inside the
//! statement that stores a checkpoint, so a process that slept past its lease cannot undo its
//! heir's work however late it wakes: safety is the epoch's, never the clock's. The lease only
//! decides how long an heir waits for an owner that is alive but silent. Whether the owner lives
//! is the answer of a lock that the operating system or the database server holds for it, never
//! of a process id.

use std::{any::Any, fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A fencing token. Grows with every claim of the same scope.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who holds a claim, as people are told. Nothing is decided by it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The machine's name.
    pub host: String,
    /// The process id on that machine.
    pub pid: u32,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} on {}", self.pid, self.host)
    }
}

/// Asks for a claim.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// The pipeline's name.
    pub pipeline: String,
    /// One partition, or [`WHOLE`] for a source that no broker divides.
    pub partition: String,
    /// Who asks.
    pub owner: Owner,
    /// How long the claim lasts without being renewed.
    pub lease: Duration,
    /// The smallest epoch that will do, for a sink that has seen higher ones than the store.
    pub at_least: Epoch,
    /// A silent holder that was watched for its whole lease and may be replaced if it has not stirred since.
    pub silent: Option<Holder>,
    /// The time to show to people.
    pub now: Timestamp,
}

/// The partition of a claim that covers the whole pipeline.
pub const WHOLE: &str = "*";

/// The present holder of a claim that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Who holds it.
    pub owner: Owner,
    /// Since when.
    pub since: Timestamp,
    /// Its epoch.
    pub epoch: Epoch,
    /// How often it was renewed: a holder is silent when this has not changed for a whole lease.
    pub renewals: u64,
    /// The lease it asked for.
    pub lease: Duration,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} since {:.0} (epoch {})", self.owner, self.since, self.epoch)
    }
}

/// A claim that was granted. Dropping every clone gives up the liveness lock.
#[derive(Clone)]
pub struct Claim {
    /// The pipeline's name.
    pub pipeline: String,
    /// The partition, or [`WHOLE`].
    pub partition: String,
    /// The fencing token that every save and every sink transaction carries.
    pub epoch: Epoch,
    /// How long it lasts without being renewed.
    pub lease: Duration,
    /// What the operating system or server holds while this process lives.
    pub lock: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("pipeline", &self.pipeline)
            .field("partition", &self.partition)
            .field("epoch", &self.epoch)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

/// What asking for a claim gave.
#[derive(Debug, Clone)]
#[must_use = "a claim that was not granted gives no right to read or write"]
pub enum ClaimAnswer {
    /// The claim is the caller's.
    Granted {
        /// The new claim.
        claim: Claim,
        /// The owner that died holding it, if one did: its run ended in a crash.
        died: Option<Holder>,
    },
    /// Somebody holds it, and its lock says that it lives.
    Held(Holder),
}
