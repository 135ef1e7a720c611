//! Getting the claim: at once from a dead owner, after a silent lease from a living one.
//!
//! Whether the owner lives is the store's answer, by a lock. What is decided here is how long a
//! living one is waited for. A holder that renews its claim is at work. One that lives but is
//! silent is watched for its whole lease, by this process's own clock, and then named to the
//! store, which replaces it only if it has not stirred since.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use piton_core::{Claim, ClaimAnswer, ClaimRequest, Holder, Store, StoreError};

/// How often a claim that is held is asked for again.
pub const ASK_AGAIN: Duration = Duration::from_millis(200);

/// What to do about a claim that a living process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenHeld {
    /// Fail at once.
    #[default]
    Fail,
    /// Fail when the holder renews its claim; replace it when it is silent for its whole lease.
    ReplaceSilent,
    /// Wait until the holder ends; replace it when it is silent for its whole lease.
    Wait,
}

/// What came of asking.
#[derive(Debug)]
#[must_use = "a claim that was not granted gives no right to read or write"]
pub enum Obtained {
    /// The claim is the caller's.
    Granted {
        /// The new claim.
        claim: Claim,
        /// The owner that died holding it, if one did.
        died: Option<Holder>,
        /// When it was asked for: the lease counts from there.
        asked: Instant,
    },
    /// It is held, and is not to be waited for any longer.
    Held(Holder),
}

/// Asks for a claim until it is granted or not to be waited for.
///
/// `on_news` hears of the holder when it is first seen and whenever it has stirred. `sleep` lets
/// the time pass and answers whether to go on. `is_spared` answers whether a holder must not be
/// replaced although it is silent: because a command that it started may be at work.
///
/// # Errors
/// What the store fails with.
pub async fn obtain<S: Future<Output = bool>>(
    store: &dyn Store,
    mut request: ClaimRequest,
    when_held: WhenHeld,
    mut on_news: impl FnMut(&Holder),
    mut sleep: impl FnMut(Duration) -> S,
    mut is_spared: impl AsyncFnMut() -> Result<bool, StoreError>,
) -> Result<Obtained, StoreError> {
    let mut watch = Watch::default();
    loop {
        let asked = Instant::now();
        request.silent = match watch.silent(asked) {
            Some(silent) if !is_spared().await? => Some(silent),
            _ => None,
        };
        let holder = match store.claim(request.clone()).await? {
            ClaimAnswer::Granted { claim, died } => {
                return Ok(Obtained::Granted { claim, died, asked });
            }
            ClaimAnswer::Held(holder) => holder,
        };
        let news = watch.saw(&holder, Instant::now());
        if news != News::None {
            on_news(&holder);
        }
        let refused = match when_held {
            WhenHeld::Fail => true,
            WhenHeld::ReplaceSilent => news == News::Stirred,
            WhenHeld::Wait => false,
        };
        if refused || !sleep(ASK_AGAIN).await {
            return Ok(Obtained::Held(holder));
        }
        request.now = jiff::Timestamp::now();
    }
}

/// The holder that is watched, and since when it has not stirred.
#[derive(Debug, Default)]
struct Watch(Option<(Holder, Instant)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    /// The same as before.
    None,
    /// A holder where none was seen yet.
    First,
    /// It has renewed its claim, or is another.
    Stirred,
}

impl Watch {
    fn saw(&mut self, holder: &Holder, now: Instant) -> News {
        let news = match &self.0 {
            None => News::First,
            Some((seen, _)) if seen == holder => return News::None,
            Some(_) => News::Stirred,
        };
        self.0 = Some((holder.clone(), now));
        news
    }

    /// The holder, once it was silent for its whole lease.
    fn silent(&self, now: Instant) -> Option<Holder> {
        let (holder, since) = self.0.as_ref()?;
        (now.duration_since(*since) >= holder.lease).then(|| holder.clone())
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use piton_core::{Epoch, Owner};

    use super::*;

    fn holder(renewals: u64) -> Holder {
        Holder {
            owner: Owner { host: "here".into(), pid: 1 },
            since: Timestamp::UNIX_EPOCH,
            epoch: Epoch(1),
            renewals,
            lease: Duration::from_secs(30),
        }
    }

    #[test]
    fn only_a_whole_lease_without_a_renewal_is_silence() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        assert_eq!(watch.silent(at(0)), None);
        assert_eq!(watch.saw(&holder(0), at(0)), News::First);
        assert_eq!(watch.saw(&holder(0), at(20)), News::None);
        assert_eq!(watch.silent(at(29)), None);
        assert_eq!(watch.saw(&holder(1), at(29)), News::Stirred);
        assert_eq!(watch.silent(at(58)), None, "the lease counts from the renewal");
        assert_eq!(watch.silent(at(59)), Some(holder(1)));
    }
}
