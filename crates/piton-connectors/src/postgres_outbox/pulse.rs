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
/// The shortest pause: several messages that come together are read together.
const SHORTEST: Duration = Duration::from_millis(1);

/// Decides when to look again, from what looking gave. Times are passed in.
#[derive(Debug)]
pub(super) struct Pulse {
    /// When there last was a message, or word of one.
    lively_at: Instant,
    next: Instant,
    /// Whether word of a message came since the last look.
    has_word: bool,
    /// Whether messages have been announced of late.
    is_notified: bool,
    /// Whether there is word of a message that has not been seen.
    owes: bool,
}

impl Pulse {
    pub(super) fn new(now: Instant) -> Self {
        Self { lively_at: now, next: now, has_word: false, is_notified: false, owes: false }
    }

    /// How long until the next look; zero when it is due.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        self.next.saturating_duration_since(now)
    }

    /// Word came of a message.
    pub(super) fn heard(&mut self, now: Instant) {
        (self.has_word, self.is_notified, self.owes) = (true, true, true);
        (self.lively_at, self.next) = (now, now);
    }

    /// Looking gave messages; `is_full` if there may be more at once.
    pub(super) fn found(&mut self, now: Instant, is_full: bool) {
        // A message that nobody announced: there is no trigger, or it came too early for its word.
        self.is_notified &= self.has_word || is_full;
        (self.has_word, self.owes) = (false, false);
        self.lively_at = now;
        self.next = if is_full { now } else { now + SHORTEST };
    }

    /// Looking gave nothing.
    pub(super) fn missed(&mut self, now: Instant) {
        self.has_word = false;
        let age = now.saturating_duration_since(self.lively_at);
        let pause = if self.is_notified && !self.owes {
            NOTIFIED_PAUSE
        } else if age < LIVELY {
            (age / 6).clamp(SHORTEST, LIVELY_PAUSE)
        } else {
            (age / 100).clamp(LIVELY_PAUSE, IDLE_PAUSE)
        };
        self.next = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// The pauses after a message at time zero, as long as nothing more comes.
    fn pauses(mut pulse: Pulse, mut now: Instant, looks: usize) -> Vec<Duration> {
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
        let pauses = pauses(pulse, now, 400);
        assert!(pauses.is_sorted() && pauses[0] == SHORTEST, "{pauses:?}");
        assert_eq!(pauses.last(), Some(&IDLE_PAUSE));
        let within = |age: Duration| {
            let mut sum = Duration::ZERO;
            pauses.iter().take_while(|pause| { sum += **pause; sum < age }).max().copied()
        };
        assert!(within(100 * MS) <= Some(17 * MS), "ten a second: {:?}", within(100 * MS));
        assert!(within(LIVELY) <= Some(LIVELY_PAUSE));
    }

    #[test]
    fn word_is_followed_at_once_and_until_the_message_is_seen() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now - Duration::from_mins(1));
        pulse.missed(now);
        assert_eq!(pulse.pause(now), IDLE_PAUSE);
        pulse.heard(now + MS);
        assert!(pulse.pause(now + MS).is_zero());
        // Hidden behind an older transaction: looking goes on as if there were no word.
        pulse.missed(now + 2 * MS);
        assert_eq!(pulse.pause(now + 2 * MS), SHORTEST);
        pulse.found(now + 3 * MS, false);
        pulse.missed(now + 5 * MS);
        assert!(pulse.pause(now + 5 * MS) < NOTIFIED_PAUSE, "it was not announced by itself");
    }

    #[test]
    fn looking_is_rare_while_every_message_is_announced() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        pulse.heard(now);
        pulse.found(now, false);
        pulse.missed(now + 2 * MS);
        assert_eq!(pulse.pause(now + 2 * MS), NOTIFIED_PAUSE);
        // The trigger is gone: the next message is found late, and looking becomes frequent again.
        pulse.found(now + NOTIFIED_PAUSE, false);
        pulse.missed(now + NOTIFIED_PAUSE + 2 * MS);
        assert_eq!(pulse.pause(now + NOTIFIED_PAUSE + 2 * MS), SHORTEST);
    }

    #[test]
    fn a_backlog_is_read_without_a_pause() {
        let now = Instant::now();
        let mut pulse = Pulse::new(now);
        pulse.found(now, true);
        assert!(pulse.pause(now).is_zero());
    }
}
