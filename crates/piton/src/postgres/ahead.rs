//! Batches out of an outbox, read ahead: while one is handled, what comes after it is on its way.
//!
//! A page has several batches, so that asking costs a batch little, and it is taken from the
//! connection by a task of its own, so that a handler does not wait for it. At most two pages are
//! in memory: the one that batches are cut from, and the next.

use std::{sync::Arc, vec};

use tokio::task::JoinSet;
use tokio_postgres::Error;

use super::{
    OutboxPosition,
    reader::{Message, Page, Pages},
};

/// How many batches a page has at most.
const BATCHES: u64 = 4;

pub(super) struct Ahead {
    pages: Arc<Pages>,
    /// What is left of the page that was read last.
    rest: vec::IntoIter<Message>,
    /// The page after it, unless there was nothing more. One at most; it ends with this.
    reading: JoinSet<Result<Page, Error>>,
}

impl Ahead {
    pub(super) fn new(pages: Pages) -> Self {
        Self { pages: Arc::new(pages), rest: Vec::new().into_iter(), reading: JoinSet::new() }
    }

    pub(super) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Whether anything was read, or is being read.
    pub(super) fn is_any(&self) -> bool {
        self.rest.len() > 0 || !self.reading.is_empty()
    }

    /// The next messages, at most `limit`: those that follow the ones handed out before, or, when
    /// nothing was read ahead, those after a position. Nothing is lost when it is dropped on its
    /// way.
    pub(super) async fn next(
        &mut self,
        after: Option<&OutboxPosition>,
        limit: u64,
    ) -> Result<Page, Error> {
        if self.rest.len() > 0 {
            return Ok(self.cut(limit, None));
        }
        if self.reading.is_empty() {
            self.read(after.cloned(), limit);
        }
        let page = match self.reading.join_next().await {
            Some(Ok(page)) => page?,
            Some(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            _ => Page::default(),
        };
        if let (true, Some(last)) = (page.is_full, page.messages.last()) {
            self.read(Some(last.at.clone()), limit.saturating_mul(BATCHES));
        }
        self.rest = page.messages.into_iter();
        Ok(self.cut(limit, page.deleted))
    }

    /// What was read ahead is read again.
    pub(super) fn forget(&mut self) {
        self.rest = Vec::new().into_iter();
        self.reading = JoinSet::new();
    }

    fn read(&mut self, after: Option<OutboxPosition>, limit: u64) {
        let pages = Arc::clone(&self.pages);
        self.reading.spawn(async move { pages.page(after.as_ref(), limit).await });
    }

    fn cut(&mut self, limit: u64, deleted: Option<OutboxPosition>) -> Page {
        let most = usize::try_from(limit).unwrap_or(usize::MAX);
        let messages = self.rest.by_ref().take(most).collect();
        Page { messages, is_full: self.is_any(), deleted }
    }
}
