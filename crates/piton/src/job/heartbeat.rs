//! A thread that shows that a job's owner lives, however long a step takes, and hears what an
//! operator wants.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use piton_core::Control;

use super::{JobError, Steps};

/// How often an operator's wish is asked for, at most.
const ASK: Duration = Duration::from_secs(1);

/// Shows others that the owner of a job lives, as long as it is there.
pub struct Heartbeat {
    heard: Arc<Heard>,
    /// Dropped, it ends the thread.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Heard {
    control: Mutex<Control>,
    /// The epoch of a newer owner, or 0.
    fence: AtomicU64,
}

impl Heartbeat {
    /// Starts the thread. A claim is renewed three times a lease.
    pub fn start(steps: &Arc<Steps>, lease: Duration) -> Self {
        let heard = Arc::new(Heard::default());
        // If the store is away for the moment, the thread asks it again.
        if let Ok(control) = steps.control() {
            *heard.control() = control;
        }
        let (stop, stopped) = channel();
        let (hears, steps) = (Arc::clone(&heard), Arc::downgrade(steps));
        let every = (lease / 3).clamp(Duration::from_millis(10), ASK);
        let beat = move || {
            let mut renewed = Instant::now();
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                if !hears.beat(&steps, &mut renewed, lease) {
                    return;
                }
            }
        };
        // Without the thread a long step may be taken for a silent owner, and is fenced: nothing worse.
        let thread = thread::Builder::new().name("piton-job".to_owned()).spawn(beat).ok();
        Self { heard, stop: Some(stop), thread }
    }

    /// Waits while an operator has paused the job, as long as `goes_on` says so.
    ///
    /// # Errors
    /// [`JobError::Fenced`], [`JobError::Cancelled`]; what the store fails with.
    pub fn heed(&self, steps: &Steps, goes_on: &dyn Fn() -> bool) -> Result<(), JobError> {
        while self.wish(steps.job())? == Control::Pause && goes_on() {
            steps.flush()?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Whether to go on or to pause, as far as was heard.
    ///
    /// # Errors
    /// [`JobError::Fenced`], [`JobError::Cancelled`].
    pub fn wish(&self, job: &str) -> Result<Control, JobError> {
        let (job, epoch) = (job.to_owned(), self.heard.fence.load(Ordering::Relaxed));
        match *self.heard.control() {
            _ if epoch != 0 => Err(JobError::Fenced { job, epoch }),
            Control::Cancel => Err(JobError::Cancelled { job }),
            wish => Ok(wish),
        }
    }

    /// Ends the thread, and waits for that.
    pub fn end(mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It does not panic; if it did, there would be nothing to mend here.
            let _ = thread.join();
        }
    }
}

impl Heard {
    fn control(&self) -> std::sync::MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False when there is nothing more to do.
    fn beat(&self, steps: &Weak<Steps>, renewed: &mut Instant, lease: Duration) -> bool {
        let Some(steps) = steps.upgrade() else { return false };
        if renewed.elapsed() >= lease / 3 {
            *renewed = Instant::now();
            // While the store is away for the moment, the next save decides.
            if let Err(JobError::Fenced { epoch, .. }) = steps.renew() {
                self.fence.store(epoch, Ordering::Relaxed);
                return false;
            }
        }
        if let Ok(control) = steps.control() {
            *self.control() = control;
        }
        true
    }
}
