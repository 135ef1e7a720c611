//! In which order steps are done, and which beside each other.

use std::{
    collections::{BTreeSet, HashMap},
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
        let mut order = Order::of(steps);
        while let Some(step) = order.next() {
            if self.step(step, scope)? == Went::Stopped {
                return Ok(Went::Stopped);
            }
            order.done(&step.name);
        }
        Ok(Went::Done)
    }

    fn beside_each_other(&self, steps: &[Step], scope: &Scope<'_>) -> Result<Went, RunError> {
        let (ended, ends) = mpsc::channel();
        thread::scope(|threads| {
            let (mut order, mut running) = (Order::of(steps), 0);
            let (mut went, mut first_error) = (Went::Done, None);
            loop {
                let goes_on = went == Went::Done && first_error.is_none();
                let may_begin = goes_on && running < self.permits.most;
                if let Some(step) = may_begin.then(|| order.next()).flatten() {
                    let ended = ended.clone();
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
                    Ok(Went::Done) => order.done(name),
                    Ok(Went::Stopped) => went = Went::Stopped,
                    Err(error) => {
                        self.begin_no_more();
                        first_error.get_or_insert(error);
                    }
                }
            }
            first_error.map_or(Ok(went), Err)
        })
    }
}

/// The order of steps that stand beside each other: that of the file, each after those that it names.
pub(super) struct Order<'a> {
    steps: &'a [Step],
    /// For how many steps each waits still.
    waits: Vec<usize>,
    /// Those that wait for a step, by its name.
    followers: HashMap<&'a str, Vec<usize>>,
    ready: BTreeSet<usize>,
}

impl<'a> Order<'a> {
    pub(super) fn of(steps: &'a [Step]) -> Self {
        let mut followers: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, step) in steps.iter().enumerate() {
            for name in &step.after {
                followers.entry(name).or_default().push(at);
            }
        }
        let waits: Vec<usize> = steps.iter().map(|step| step.after.len()).collect();
        let ready = (0..steps.len()).filter(|at| waits[*at] == 0).collect();
        Self { steps, waits, followers, ready }
    }

    /// The first step that waits for nothing more. Each is given once.
    pub(super) fn next(&mut self) -> Option<&'a Step> {
        self.ready.pop_first().map(|at| &self.steps[at])
    }

    /// A step is done: others need not wait for it any more.
    pub(super) fn done(&mut self, name: &str) {
        for at in self.followers.remove(name).into_iter().flatten() {
            self.waits[at] -= 1;
            if self.waits[at] == 0 {
                self.ready.insert(at);
            }
        }
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
