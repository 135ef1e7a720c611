//! The loop: read a batch, handle it, read the next meanwhile; and whatever comes between.
//!
//! The place that the loop remembers moves after the commit only. When it is not known what became
//! of a commit, the loop connects and claims anew, which fences what may still be under way, and
//! reads then. A server that is away is waited for, a handler that fails is tried again, and both
//! end with the error and never with silence.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use piton_core::{Control, RunEnd};
use tokio::{sync::Notify, time::sleep};
use tokio_postgres::Client;

use super::{
    Claim, OutboxPosition, Processor, ProcessorError,
    ahead::Ahead,
    claim::heed,
    guard,
    position::{Fingerprint, hash_of},
    pulse::Pulse,
    reader::{Message, Page, Pages, Reader, Start, WAKE_CHANNEL},
    work::{Failed, SHORTEST, Turn, Work, save_alone},
};
use crate::error::CursorError;

/// The pause after a failed attempt, at first and at most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How many messages the first batch has: nothing is known of the handler yet.
const FIRST: u64 = 100;

/// How often the loop asks what an operator wants, and, while nothing comes, whether messages are
/// there that cannot be read yet.
const ASK: Duration = Duration::from_secs(1);

/// The longest that a paused loop sleeps.
const IDLE: Duration = Duration::from_millis(200);

/// When the program wants the loop to end.
pub(super) struct Stop<'f, F> {
    future: Pin<&'f mut F>,
    is_asked: bool,
}

impl<'f, F: Future<Output = ()>> Stop<'f, F> {
    pub(super) fn new(future: Pin<&'f mut F>) -> Self {
        Self { future, is_asked: false }
    }

    /// What comes of some work, unless the end is asked for before it is done.
    async fn unless<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        if self.is_asked {
            return None;
        }
        tokio::select! {
            biased;
            () = self.future.as_mut() => {
                self.is_asked = true;
                None
            }
            done = work => Some(done),
        }
    }

    /// Whether the end has been asked for.
    async fn is_asked(&mut self) -> bool {
        let future = self.future.as_mut();
        if !self.is_asked {
            let mut future = future;
            let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx)));
            self.is_asked = polled.await.is_ready();
        }
        self.is_asked
    }
}

/// What went wrong since a batch was last done.
#[derive(Default)]
struct Setbacks {
    attempts: u32,
    /// Since when the server is away.
    away_since: Option<Instant>,
    /// The commit of which it is not known what became.
    in_doubt: Option<ProcessorError>,
}

impl Setbacks {
    fn pause(&self) -> Duration {
        (PAUSE * 2_u32.pow(self.attempts.min(7))).min(LONGEST_PAUSE)
    }

    fn is_patient(&self, patience: Duration) -> bool {
        self.away_since.is_none_or(|since| since.elapsed() < patience)
    }
}

/// Handles messages until the end is asked for, or an error is to be surfaced.
pub(super) async fn run<W: Work, F: Future<Output = ()>>(
    processor: &Processor,
    work: &mut W,
    stop: &mut Stop<'_, F>,
) -> Result<(), ProcessorError> {
    let mut setbacks = Setbacks::default();
    let mut again = processor.again;
    loop {
        // An operator who cancels it from now on has the last word.
        let again = std::mem::take(&mut again);
        let attempt = attempt(processor, work, stop, &mut setbacks, again);
        // On the heap: it is large, and so would be every future that it is in.
        let failed = match Box::pin(attempt).await {
            Ok(()) => return Ok(()),
            Err(failed) => failed,
        };
        let error = match failed {
            Failed::ForGood(error) => return Err(error),
            Failed::Away(error) => error,
            Failed::Refused(error) => processor.database_error(error),
            Failed::Handler(error) => {
                return Err(CursorError::Effects { job: processor.name.clone(), error }.into());
            }
        };
        if stop.is_asked().await {
            return Ok(());
        }
        if !setbacks.is_patient(processor.patience) {
            return Err(setbacks.in_doubt.unwrap_or(error));
        }
        if matches!(error, ProcessorError::InDoubt { .. }) {
            setbacks.in_doubt = Some(error);
        }
        setbacks.attempts += 1;
        setbacks.away_since.get_or_insert_with(Instant::now);
        let _ = stop.unless(sleep(setbacks.pause())).await;
    }
}

/// Connects, claims, handles batches until something fails, and gives the claim up again.
async fn attempt<W: Work, F: Future<Output = ()>>(
    processor: &Processor,
    work: &mut W,
    stop: &mut Stop<'_, F>,
    setbacks: &mut Setbacks,
    again: bool,
) -> Result<(), Failed> {
    heed(&**processor.database.store(), &processor.name, again).await?;
    let Some(connected) = stop.unless(Connected::new(processor)).await else { return Ok(()) };
    let mut connected = connected?;
    let Some(mut claim) = claim(processor, &connected.writes, stop).await? else { return Ok(()) };
    // The claim has read what is stored, and fences what may still be under way.
    setbacks.in_doubt = None;
    let ended = go_on(processor, &mut connected, &mut claim, work, stop, setbacks).await;
    // A transaction that is still open goes with its connection.
    drop(connected);
    let Err(failed) = ended else { return Ok(claim.close().await?) };
    // Who was replaced is told so, whatever failed first.
    let fenced = claim.renew().await.err();
    let failed = match fenced {
        Some(fenced @ ProcessorError::Fenced { .. }) => Failed::ForGood(fenced),
        _ => failed,
    };
    let end = match &failed {
        Failed::ForGood(ProcessorError::Cancelled { .. }) => RunEnd::Cancelled,
        Failed::ForGood(ProcessorError::Fenced { .. }) => RunEnd::Fenced,
        Failed::ForGood(_) => RunEnd::Failed,
        _ => RunEnd::Stopped,
    };
    // What failed is the news, not that the store could not be told.
    let _ = claim.end(end).await;
    Err(failed)
}

/// Claims the processor; `None` when the end was asked for while another owner had it.
async fn claim<F: Future<Output = ()>>(
    processor: &Processor,
    client: &Client,
    stop: &mut Stop<'_, F>,
) -> Result<Option<Claim>, Failed> {
    let Processor { name, version, options, database, .. } = processor;
    let is_over = AtomicBool::new(false);
    let claiming = Claim::open_unless(&is_over, database.store(), client, name, *version, options);
    let mut claiming = std::pin::pin!(claiming);
    let claimed = match stop.unless(claiming.as_mut()).await {
        Some(claimed) => claimed,
        // It is not dropped on its way: it may just have been granted.
        None => {
            is_over.store(true, Ordering::Relaxed);
            claiming.await
        }
    };
    match claimed {
        Err(ProcessorError::Claim(CursorError::Held { .. })) if stop.is_asked => Ok(None),
        claimed => Ok(Some(claimed?)),
    }
}

/// The connections of a processor: it reads on one and writes on the other.
struct Connected {
    reads: Arc<Client>,
    writes: Client,
    /// Notified when somebody has appended.
    heard: Arc<Notify>,
    seen: Option<Fingerprint>,
}

impl Connected {
    async fn new(processor: &Processor) -> Result<Self, Failed> {
        let failed = |error| Failed::of(&processor.name, error);
        let database = &processor.database;
        let writes = database.connect().await.map_err(ProcessorError::from)?;
        let reader = Reader::of(&processor.table);
        let table = reader.oid(&writes).await.map_err(failed)?;
        let heard = Arc::new(Notify::new());
        let hears = Arc::clone(&heard);
        let on_word = move |channel: &str, payload: &str| {
            if channel == WAKE_CHANNEL && (payload.is_empty() || payload == table) {
                // Several are one word.
                hears.notify_one();
            }
        };
        let reads = database.connect_and_hear(on_word).await.map_err(ProcessorError::from)?;
        let reads = Arc::new(reads);
        let named = "SELECT set_config('application_name', left('piton ' || $1, 63), false)";
        for client in [&*reads, &writes] {
            client.execute(named, &[&processor.name]).await.map_err(failed)?;
        }
        // Who hangs within a transaction holds every reader back, and the heir.
        let lease = processor.options.lease.as_millis().clamp(1, i32::MAX as u128);
        let session = format!("SET idle_in_transaction_session_timeout = {lease}");
        writes.batch_execute(&session).await.map_err(failed)?;
        let seen = guard::look_at(&reads).await.map_err(failed)?;
        Ok(Self { reads, writes, heard, seen })
    }
}

/// Handles batches on these connections, under one claim.
async fn go_on<W: Work, F: Future<Output = ()>>(
    processor: &Processor,
    connected: &mut Connected,
    claim: &mut Claim,
    work: &mut W,
    stop: &mut Stop<'_, F>,
    setbacks: &mut Setbacks,
) -> Result<(), Failed> {
    let mut desk = Desk::new(processor, connected, claim).await?;
    loop {
        if !desk.duties.attend(desk.claim, stop).await? {
            return Ok(());
        }
        let Some(page) = desk.page(stop).await? else { return Ok(()) };
        if page.messages.is_empty() {
            *setbacks = Setbacks::default();
            desk.missed().await?;
            continue;
        }
        let Err(failed) = desk.handle(&page, work).await else {
            *setbacks = Setbacks::default();
            continue;
        };
        setbacks.attempts += 1;
        processor.surfaced(failed, &page.messages, setbacks.attempts)?;
        let _ = stop.unless(sleep(setbacks.pause())).await;
    }
}

/// All that a batch is read and handled with.
struct Desk<'a> {
    processor: &'a Processor,
    ahead: Ahead,
    writes: &'a mut Client,
    claim: &'a mut Claim,
    seen: Option<&'a Fingerprint>,
    look: Look<'a>,
    duties: Duties<'a>,
    /// How many messages the next batch has at most.
    size: u64,
    /// Up to where messages were deleted when none was left to begin with.
    missing: Option<OutboxPosition>,
}

impl<'a> Desk<'a> {
    /// Looks whether the server can be read on from the checkpoint, and stores where to begin.
    async fn new(
        processor: &'a Processor,
        connected: &'a mut Connected,
        claim: &'a mut Claim,
    ) -> Result<Self, Failed> {
        let failed = |error| Failed::of(&processor.name, error);
        let Connected { reads, writes, heard, seen } = connected;
        let reader = Reader::of(&processor.table);
        let known = seen.as_ref().filter(|_| !processor.accepts_server);
        let objection = guard::objection(reads, &reader, known, claim.position());
        if let Some(what) = objection.await.map_err(failed)? {
            let processor = processor.name.clone();
            return Err(Failed::ForGood(ProcessorError::Gap { processor, what }));
        }
        let ahead = Ahead::new(reader.pages(Arc::clone(reads)).await.map_err(failed)?);
        let missing = None;
        let (look, duties) = (Look::new(heard), Duties::new(processor));
        let size = processor.batch.min(FIRST);
        let seen = seen.as_ref();
        let mut desk = Self { processor, ahead, writes, claim, seen, look, duties, size, missing };
        desk.begin().await?;
        Ok(desk)
    }

    /// Stores the place to begin at, so that a restart begins at the same.
    async fn begin(&mut self) -> Result<(), Failed> {
        if self.claim.position().is_some() {
            return Ok(());
        }
        let at = match &self.processor.start {
            Start::Beginning => return Ok(()),
            Start::End => {
                let end = self.ahead.pages().end().await;
                end.map_err(|error| Failed::of(&self.processor.name, error))?
            }
            Start::After(at) => at.clone(),
        };
        let at = OutboxPosition { fingerprint: self.seen.cloned(), ..at };
        save_alone(self.claim, &self.processor.name, self.writes, &at, &[]).await
    }

    /// The next messages, when it is time to look for them; `None` when the end was asked for.
    async fn page<F: Future<Output = ()>>(
        &mut self,
        stop: &mut Stop<'_, F>,
    ) -> Result<Option<Page>, Failed> {
        let Self { look, ahead, claim, size, duties, .. } = self;
        let looked = async {
            if !ahead.is_any() {
                look.wait(duties.every).await;
            }
            ahead.next(claim.position(), *size).await
        };
        match stop.unless(looked).await {
            None => Ok(None),
            Some(Ok(page)) => self.proved(page).map(Some),
            Some(Err(error)) => Err(Failed::of(&self.processor.name, error)),
        }
    }

    /// Refuses a page if messages in front of it were deleted.
    fn proved(&mut self, page: Page) -> Result<Page, Failed> {
        let Some(since) = self.claim.position().or(self.missing.as_ref()) else {
            // It begins with what is left.
            self.missing = Some(page.deleted.clone().unwrap_or(OutboxPosition::BEGINNING));
            return Ok(page);
        };
        match page.deleted.as_ref().and_then(|mark| guard::deleted(since, mark)) {
            None => Ok(page),
            Some(what) => {
                let processor = self.processor.name.clone();
                Err(Failed::ForGood(ProcessorError::Gap { processor, what }))
            }
        }
    }

    /// There was nothing to read.
    async fn missed(&mut self) -> Result<(), Failed> {
        let missed = self.look.missed(self.ahead.pages(), self.claim.position()).await;
        missed.map_err(|error| Failed::of(&self.processor.name, error))
    }

    /// Handles a batch.
    async fn handle<W: Work>(&mut self, page: &Page, work: &mut W) -> Result<(), Failed> {
        let Some(last) = page.messages.last() else { return Ok(()) };
        self.look.pulse.found(Instant::now(), page.is_full);
        let fingerprint = self.seen.map(|seen| {
            let message = Some(hash_of(&last.id));
            Fingerprint { message, ..seen.clone() }
        });
        let turn = Turn {
            processor: &self.processor.name,
            order: self.processor.order,
            every: self.duties.every,
            client: &mut *self.writes,
            claim: &mut *self.claim,
            messages: &page.messages,
            upto: OutboxPosition { fingerprint, ..last.at.clone() },
        };
        let began = Instant::now();
        let done = work.handle(turn).await;
        if done.is_err() {
            self.look.pulse.found(Instant::now(), true);
            self.ahead.forget();
            return done;
        }
        self.size = self.processor.next_size(page.messages.len() as u64, began.elapsed());
        Ok(())
    }
}

/// When to look for messages.
struct Look<'a> {
    heard: &'a Notify,
    pulse: Pulse,
    /// When it was last asked whether messages are there that cannot be read yet.
    asked: Instant,
}

impl<'a> Look<'a> {
    fn new(heard: &'a Notify) -> Self {
        let now = Instant::now();
        Self { heard, pulse: Pulse::new(now), asked: now }
    }

    /// Waits until it is time to look, or word comes, but no longer than `most`.
    async fn wait(&mut self, most: Duration) {
        let pause = self.pulse.pause(Instant::now()).min(most);
        if pause.is_zero() {
            return;
        }
        tokio::select! {
            () = self.heard.notified() => self.pulse.heard(Instant::now()),
            () = sleep(pause) => {}
        }
    }

    async fn missed(
        &mut self,
        pages: &Pages,
        after: Option<&OutboxPosition>,
    ) -> Result<(), tokio_postgres::Error> {
        self.pulse.missed(Instant::now());
        if self.asked.elapsed() >= ASK {
            self.pulse.hides(pages.is_behind(after).await?);
            self.asked = Instant::now();
        }
        Ok(())
    }
}

/// What an owner does beside its work: it shows that it lives, and asks what an operator wants.
struct Duties<'a> {
    processor: &'a Processor,
    every: Duration,
    renewed: Instant,
    asked: Option<Instant>,
    control: Control,
}

impl<'a> Duties<'a> {
    fn new(processor: &'a Processor) -> Self {
        let every = (processor.options.lease / 3).clamp(SHORTEST, ASK);
        Self { processor, every, renewed: Instant::now(), asked: None, control: Control::Run }
    }

    /// Does what is due, and waits while an operator has paused it. False when the end was asked
    /// for.
    async fn attend<F: Future<Output = ()>>(
        &mut self,
        claim: &Claim,
        stop: &mut Stop<'_, F>,
    ) -> Result<bool, Failed> {
        while !stop.is_asked().await {
            if self.renewed.elapsed() >= self.every.max(self.processor.options.lease / 3) {
                claim.renew().await?;
                self.renewed = Instant::now();
            }
            if self.asked.is_none_or(|asked| asked.elapsed() >= ASK) {
                self.control = claim.control().await?;
                self.asked = Some(Instant::now());
            }
            match self.control {
                Control::Run => return Ok(true),
                Control::Pause => {
                    let _ = stop.unless(sleep(self.every.min(IDLE))).await;
                }
                Control::Cancel => {
                    let processor = self.processor.name.clone();
                    return Err(Failed::ForGood(ProcessorError::Cancelled { processor }));
                }
            }
        }
        Ok(false)
    }
}

impl Processor {
    /// Whether a batch that failed is to be tried again; the error if it is not.
    fn surfaced(&self, failed: Failed, batch: &[Message], attempts: u32) -> Result<(), Failed> {
        match failed {
            Failed::Handler(_) | Failed::Refused(_) if attempts < self.attempts => Ok(()),
            Failed::Handler(error) => {
                let place = |message: Option<&Message>| {
                    Box::new(message.map_or(OutboxPosition::new(0, 0), |m| m.at.clone()))
                };
                let (from, to) = (place(batch.first()), place(batch.last()));
                let processor = self.name.clone();
                let error = ProcessorError::Handler { processor, from, to, attempts, error };
                Err(Failed::ForGood(error))
            }
            Failed::Refused(error) => Err(Failed::ForGood(self.database_error(error))),
            failed => Err(failed),
        }
    }

    fn database_error(&self, error: tokio_postgres::Error) -> ProcessorError {
        ProcessorError::Database { processor: self.name.clone(), error }
    }

    /// How many messages the next batch has, so that its transaction is not open for too long.
    fn next_size(&self, handled: u64, took: Duration) -> u64 {
        let each = took.as_secs_f64() / handled.max(1) as f64;
        let fitting = self.max_open.as_secs_f64() / each.max(1e-9);
        // It grows in steps: one quick batch says little of the next.
        (fitting as u64).clamp(1, self.batch).min(handled.saturating_mul(4).max(FIRST))
    }
}
