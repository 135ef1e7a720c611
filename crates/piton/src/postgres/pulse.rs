//! When to look for messages again.
//!
//! A NOTIFY says that there may be something, and no more: the message can still be hidden behind
//! an older transaction, whose end notifies nobody. So looking goes on, more rarely. Without a
//! trigger that notifies, the pauses follow the traffic: a fraction of the time since the last
//! message, so that an idle table costs next to nothing and a lively one is seen at once.

use std::time::{Duration, Instant};

/// After a message, pauses stay short for so long.
const LIVELY: Duration = Duration::from_secs(2);
/// The longest pause while it is lively.
const LIVELY_PAUSE: Duration = Duration::from_millis(16);
/// The longest pause.
const IDLE_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause where whoever appends notifies.
const NOTIFIED_PAUSE: Duration = Duration::from_millis(500);
/// The shortest pause: messages that come together are read together.
const SHORTEST: Duration = Duration::from_millis(1);

/// Decides when to look again, from what looking gave. Times are passed in.
#[derive(Debug)]
pub struct Pulse {
    /// When there last was a message, or word of one.
    lively_at: Instant,
    next: Instant,
    /// Whether messages have been announced of late.
    is_notified: bool,
    /// Whether a message is known to be there and was not seen yet.
    owes: bool,
}

impl Pulse {
    /// Looks at once.
    pub fn new(now: Instant) -> Self {
        Self { lively_at: now, next: now, is_notified: false, owes: false }
    }

    /// How long until the next look; zero when it is due.
    pub fn pause(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Word came of a message.
    pub fn heard(&mut self, now: Instant) {
        (self.is_notified, self.owes) = (true, true);
        (self.lively_at, self.next) = (now, now);
    }

    /// Looking gave messages; `is_full` if there may be more at once.
    pub fn found(&mut self, now: Instant, is_full: bool) {
        // A message that nobody announced: there is no trigger any more.
        self.is_notified &= self.owes || is_full;
        self.owes = false;
        self.lively_at = now;
        self.next = if is_full { now } else { now + SHORTEST };
    }

    /// Looking gave nothing.
    pub fn missed(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.lively_at);
        let pause = if age < LIVELY {
            (age / 6).clamp(SHORTEST, LIVELY_PAUSE)
        } else if self.is_notified && !self.owes {
            NOTIFIED_PAUSE
        } else {
            (age / 100).clamp(LIVELY_PAUSE, IDLE_PAUSE)
        };
        self.next = now + pause;
    }

    /// A message is there and hidden behind a transaction in flight, or is not any more.
    pub fn hides(&mut self, owes: bool) {
        self.owes = owes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses from now on, as long as nothing comes.
    fn pauses(pulse: &mut Pulse, from: Instant, looks: usize) -> Vec<Duration> {
        let mut now = from;
        let mut pauses = Vec::new();
        for _ in 0..looks {
            pulse.missed(now);
            pauses.push(pulse.pause(now));
            now += pulse.pause(now);
        }
        pauses
    }

    #[test]
    fn without_word_the_pauses_grow_with_the_silence_and_are_bounded() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        pulse.found(now, false);
        let pauses = pauses(&mut pulse, now, 1000);
        assert!(pauses.is_sorted(), "{pauses:?}");
        assert_eq!((pauses[0], pauses[999]), (SHORTEST, IDLE_PAUSE));
        let mut age = Duration::ZERO;
        let lively = pauses.iter().take_while(|pause| {
            age += **pause;
            age < LIVELY
        });
        assert!(lively.max() <= Some(&LIVELY_PAUSE), "ten messages a second are seen in time");
    }

    #[test]
    fn word_is_followed_at_once_and_until_the_message_is_seen() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        let late = now + Duration::from_mins(1);
        pulse.missed(late);
        assert_eq!(pulse.pause(late), IDLE_PAUSE);
        pulse.heard(late);
        assert!(pulse.pause(late).is_zero());
        // Hidden behind an older transaction: looking goes on as if there were no word.
        assert_eq!(pauses(&mut pulse, late, 1000).last(), Some(&IDLE_PAUSE));
        pulse.found(late, false);
        assert_eq!(pauses(&mut pulse, late, 1000).last(), Some(&NOTIFIED_PAUSE));
    }

    #[test]
    fn looking_is_rare_only_while_every_message_is_announced_and_seen() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        pulse.heard(now);
        pulse.found(now, false);
        assert_eq!(pauses(&mut pulse, now, 1000).last(), Some(&NOTIFIED_PAUSE));
        pulse.hides(true);
        assert_eq!(pauses(&mut pulse, now, 1000).last(), Some(&IDLE_PAUSE));
        pulse.hides(false);
        assert_eq!(pauses(&mut pulse, now, 1000).last(), Some(&NOTIFIED_PAUSE));
        // The trigger is gone: the next message is found late, and looking becomes frequent again.
        pulse.found(now, false);
        assert_eq!(pauses(&mut pulse, now, 1000).last(), Some(&IDLE_PAUSE));
    }

    #[test]
    fn a_backlog_is_read_without_a_pause() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        pulse.found(now, true);
        assert!(pulse.pause(now).is_zero());
        pulse.found(now, false);
        assert_eq!(pulse.pause(now), SHORTEST, "and its rest is waited for");
    }
}
