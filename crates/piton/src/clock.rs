//! A clock that is cheap enough to be read with every record.
//!
//! Reading the precise clock costs 25 to 50 ns, more than all else that a cursor does for a record.
//! Linux has one beside it that is brought up to date at every tick of the kernel, and is read in a
//! quarter of the time. Being up to ten milliseconds late is nothing to an interval or a lease, and
//! no decision about safety is made by any clock.

use std::time::Duration;

#[cfg(any(target_os = "linux", target_os = "android"))]
type Inner = Duration;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
type Inner = std::time::Instant;

/// A moment by a clock that only goes forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Inner);

impl Moment {
    /// Now, or up to ten milliseconds ago.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    #[inline]
    pub(crate) fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
        Self(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    /// Now.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    #[inline]
    pub(crate) fn now() -> Self {
        Self(std::time::Instant::now())
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(crate) fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn checked_add(self, time: Duration) -> Option<Self> {
        self.0.checked_add(time).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_about_as_fast_as_the_precise_one() {
        let (begin, precise) = (Moment::now(), std::time::Instant::now());
        std::thread::sleep(Duration::from_millis(100));
        let (here, there) = (begin.elapsed(), precise.elapsed());
        assert!(here.abs_diff(there) <= Duration::from_millis(40), "{here:?} {there:?}");
    }
}
