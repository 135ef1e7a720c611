//! Taking turns: several sinks of one process that write the same database.
//!
//! `SQLite` has one write lock and hands it to whoever happens to ask next, so that of two busy
//! writers one can starve. Sinks that share a database therefore line up here first.

use std::sync::{Condvar, Mutex, PoisonError};

/// A queue for one database's write lock, first come, first served.
#[derive(Debug, Default)]
pub struct Turn {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The next number to be drawn.
    drawn: u64,
    /// The number whose turn it is.
    serving: u64,
}

/// It is this holder's turn until it is dropped.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Turn);

impl Turn {
    /// Waits for its turn.
    pub(super) fn take(&self) -> Held<'_> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.drawn;
        state.drawn += 1;
        while state.serving != mine {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Held(self)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).serving += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn nobody_is_passed_over() {
        let turn = Arc::new(Turn::default());
        let taken = Arc::new(Mutex::new(Vec::new()));
        let first = turn.take();
        let waiting: Vec<_> = (0..4)
            .map(|n| {
                let (in_line, taken) = (Arc::clone(&turn), Arc::clone(&taken));
                let thread = thread::spawn(move || {
                    let _held = in_line.take();
                    taken.lock().unwrap().push(n);
                });
                while turn.state.lock().unwrap().drawn < n + 2 {
                    thread::yield_now();
                }
                thread
            })
            .collect();
        drop(first);
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*taken.lock().unwrap(), [0, 1, 2, 3]);
    }
}
