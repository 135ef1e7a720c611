//! Getting the claim of a pipeline, as the library does it for every program.

use std::future::ready;

use futures_executor::block_on;
use jiff::Timestamp;
use piton::claiming::{self, Obtained, WhenHeld};
use piton_core::{Claim, ClaimRequest, Epoch, Holder, Store, claim::WHOLE};

use super::{RunError, RunOptions, signal::Signal};
use crate::pipeline::Pipeline;

/// Asks for the claim until it is granted, or the holder has shown that it is there to stay.
///
/// A holder that lives and renews is not waited for unless the configuration says so. One that
/// lives but is silent is replaced after its lease.
pub(crate) fn obtain(
    pipeline: &Pipeline,
    store: &dyn Store,
    options: &RunOptions,
    signal: &Signal,
    at_least: Epoch,
) -> Result<(Claim, Option<Holder>), RunError> {
    let request = ClaimRequest {
        pipeline: pipeline.name.clone(),
        partition: WHOLE.to_owned(),
        owner: options.owner.clone(),
        lease: pipeline.lease,
        at_least,
        silent: None,
        now: Timestamp::now(),
    };
    let when_held = if pipeline.wait_when_held { WhenHeld::Wait } else { WhenHeld::ReplaceSilent };
    let mut told = None;
    let on_news = |holder: &Holder| {
        if told.replace(holder.epoch) != Some(holder.epoch) {
            (options.on_wait)(holder);
        }
    };
    let sleep = |time| ready(signal.sleep(time));
    match block_on(claiming::obtain(store, request, when_held, on_news, sleep, async || Ok(false)))?
    {
        Obtained::Granted { claim, died, asked } => {
            signal.renewed(asked, claim.lease);
            Ok((claim, died))
        }
        Obtained::Held(holder) => Err(RunError::Held { pipeline: pipeline.name.clone(), holder }),
    }
}
