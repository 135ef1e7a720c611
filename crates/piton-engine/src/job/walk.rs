//! In which order steps are done, and which beside each other.

use std::{
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Condvar, Mutex, PoisonError, mpsc},
    thread,
};

use super::{definition::Step, run::Course, stepping::Scope};
use crate::run::{RunError, Signal};

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
        // Given back by a panic, too: nobody waits for ever.
        let _back = OnDrop(|| {
            *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.freed.notify_one();
        });
        work()
    }
}

/// Does something when it is dropped, also by a panic.
pub(super) struct OnDrop<F: Fn()>(pub(super) F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
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
                        let did = catch_unwind(AssertUnwindSafe(|| self.step(step, scope)));
                        // Nobody listens only after a panic, which goes on by itself.
                        let _ = ended.send((step.name.as_str(), did));
                    });
                    continue;
                }
                if running == 0 {
                    break;
                }
                let Ok((name, result)) = ends.recv() else { break };
                running -= 1;
                let result = result.unwrap_or_else(|panic| {
                    // Those that are at work are waited for.
                    self.each(Signal::stop);
                    resume_unwind(panic)
                });
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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, time::Duration};

    use super::*;
    use crate::{
        config::{Loaded, load_any_str},
        run::RunOptions,
    };

    /// Runs a job of steps that do nothing, beside each other, and panics where one of them begins.
    fn run_with_a_panic() {
        let text = "job: j\nparallel: 2\nsteps:\n  - {step: a, run: ['true']}
  - {step: b, run: ['true']}\n  - {step: c, run: ['true']}\n";
        let folder = tempfile::tempdir().unwrap();
        let env = |name: &str| std::env::var(name).ok();
        let loaded = load_any_str(text, Path::new("job.yaml"), folder.path(), &env).unwrap();
        let Loaded::Job(job) = loaded else { panic!("a job") };
        let instance = job.with(&BTreeMap::new()).unwrap();
        let store =
            piton_stores::open("memory:", folder.path(), piton_stores::Mode::Create).unwrap();
        let options = RunOptions::plain(piton_stores::this_process());
        let watch =
            |path: &str, _: &super::super::run::Happened| assert!(path != "b", "on purpose");
        let signal = Signal::default();
        let _ = super::super::run::run(&job, &instance, &store, &options, &signal, &watch);
    }

    #[test]
    fn a_panic_ends_a_run_instead_of_hanging_it() {
        let (ended, ends) = mpsc::channel();
        thread::spawn(move || {
            let run = catch_unwind(run_with_a_panic);
            ended.send(run.is_err()).unwrap();
        });
        assert_eq!(ends.recv_timeout(Duration::from_mins(1)), Ok(true));
    }
}
