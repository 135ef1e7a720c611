//! In which order steps are done, and which beside each other.

use std::{
    num::NonZeroUsize,
    sync::{Condvar, Mutex, PoisonError, mpsc},
    thread,
};

use super::{definition::Step, run::Course, stepping::Scope};
use crate::run::RunError;

/// How steps went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Went {
    /// All of them are done.
    Done,
    /// They were asked to stop, and go on another time.
    Stopped,
}

/// How many bodies may be at work at once.
pub(super) struct Permits {
    free: Mutex<usize>,
    freed: Condvar,
    most: usize,
}

impl Permits {
    pub(super) fn new(most: NonZeroUsize) -> Self {
        Self { free: Mutex::new(most.get()), freed: Condvar::new(), most: most.get() }
    }

    /// Does some work when its turn has come.
    pub(super) fn with<T>(&self, work: impl FnOnce() -> T) -> T {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_while(free, |free| *free == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        let done = work();
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
        done
    }
}

impl Course<'_> {
    /// Does steps that stand beside each other: in the order of the file, each after those that it
    /// names. After one has failed none is begun; those that are at work come to their end.
    pub(super) fn level(&self, steps: &[Step], scope: &Scope<'_>) -> Result<Went, RunError> {
        if self.permits.most == 1 || steps.len() == 1 || scope.parent().is_some() {
            return self.one_by_one(steps, scope);
        }
        self.beside_each_other(steps, scope)
    }

    fn one_by_one(&self, steps: &[Step], scope: &Scope<'_>) -> Result<Went, RunError> {
        let mut waiting: Vec<&Step> = steps.iter().collect();
        let mut done: Vec<&str> = Vec::new();
        while let Some(next) = ready(&waiting, &done) {
            let step = waiting.remove(next);
            if self.step(step, scope)? == Went::Stopped {
                return Ok(Went::Stopped);
            }
            if steps.iter().any(|other| other.after.contains(&step.name)) {
                done.push(&step.name);
            }
        }
        Ok(Went::Done)
    }

    fn beside_each_other(&self, steps: &[Step], scope: &Scope<'_>) -> Result<Went, RunError> {
        let (ended, ends) = mpsc::channel();
        thread::scope(|threads| {
            let mut waiting: Vec<&Step> = steps.iter().collect();
            let (mut done, mut running) = (Vec::new(), 0);
            let (mut went, mut first_error) = (Went::Done, None);
            loop {
                let goes_on = went == Went::Done && first_error.is_none();
                let next = ready(&waiting, &done).filter(|_| goes_on);
                if let Some(next) = next.filter(|_| running < self.permits.most) {
                    let (step, ended) = (waiting.remove(next), ended.clone());
                    running += 1;
                    threads.spawn(move || {
                        // Nobody listens only after a panic, which goes on by itself.
                        let _ = ended.send((step.name.as_str(), self.step(step, scope)));
                    });
                    continue;
                }
                if running == 0 {
                    break;
                }
                let Ok((name, result)) = ends.recv() else { break };
                running -= 1;
                match result {
                    Ok(Went::Done) => done.push(name),
                    Ok(Went::Stopped) => went = Went::Stopped,
                    Err(error) => drop(first_error.get_or_insert(error)),
                }
            }
            first_error.map_or(Ok(went), Err)
        })
    }
}

/// The first step that waits for nothing more.
pub(super) fn ready(waiting: &[&Step], done: &[&str]) -> Option<usize> {
    waiting.iter().position(|step| step.after.iter().all(|name| done.contains(&name.as_str())))
}
