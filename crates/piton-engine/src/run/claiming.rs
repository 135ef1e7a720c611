//! Getting the claim: at once from a dead owner, after a silent lease from a living one.

use std::time::{Duration, Instant};

use futures_executor::block_on;
use jiff::Timestamp;
use piton_core::{Claim, ClaimAnswer, ClaimRequest, Epoch, Holder, Store, claim::WHOLE};

use super::{RunError, RunOptions, signal::Signal};
use crate::pipeline::Pipeline;

const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Asks for the claim until it is granted, or the holder has shown that it is there to stay.
///
/// A holder that lives and renews is not waited for unless the configuration says so. One that
/// lives but is silent is watched for its whole lease, by this process's own clock, and replaced
/// if it has not stirred.
pub(crate) fn obtain(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    signal: &Signal,
    at_least: Epoch,
) -> Result<(Claim, Option<Holder>), RunError> {
    let mut watched: Option<(Holder, Instant)> = None;
    loop {
        let silent = watched
            .as_ref()
            .filter(|(holder, since)| since.elapsed() >= holder.lease)
            .map(|(holder, _)| holder.clone());
        let asked = Instant::now();
        let request = ClaimRequest {
            pipeline: pipeline.name.clone(),
            partition: WHOLE.to_owned(),
            owner: options.owner.clone(),
            lease: pipeline.lease,
            at_least,
            silent,
            now: Timestamp::now(),
        };
        let holder = match block_on(store.claim(request))? {
            ClaimAnswer::Granted { claim, died } => {
                signal.renewed(asked, claim.lease);
                return Ok((claim, died));
            }
            ClaimAnswer::Held(holder) => holder,
        };
        let stirred = watched.as_ref().is_some_and(|(seen, _)| *seen != holder);
        if watched.as_ref().is_none_or(|(seen, _)| seen.epoch != holder.epoch) {
            (options.on_wait)(&holder);
        }
        if watched.is_none() || stirred {
            watched = Some((holder.clone(), Instant::now()));
        }
        // A renewal seen while waiting says that the owner is at work.
        if stirred && !pipeline.wait_when_held {
            return Err(RunError::Held { pipeline: pipeline.name.clone(), holder });
        }
        if !signal.sleep(ASK_AGAIN) {
            return Err(RunError::Held { pipeline: pipeline.name.clone(), holder });
        }
    }
}
