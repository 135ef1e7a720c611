//! Connections to the databases in which steps execute statements: each step that is at work has one
//! of its own, so that steps beside each other do not wait for each other.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use piton_connectors::sql_statements::{Statements, StatementsError};

/// A database in which statements are executed.
pub(super) struct Database {
    connections: Mutex<Connections>,
    freed: Condvar,
    /// `SQLite` has one writer, so that a second connection would only wait in another place.
    is_alone: bool,
}

/// Connections by which nothing is done now, and how many there are in all.
#[derive(Default)]
struct Connections {
    idle: Vec<Box<dyn Statements>>,
    opened: usize,
}

impl Database {
    pub(super) fn new(url: &str) -> Self {
        Self {
            connections: Mutex::default(),
            freed: Condvar::new(),
            is_alone: url.starts_with("sqlite:"),
        }
    }

    /// Does something by a connection of its own: one that is free, or another. So there are as many
    /// as steps that were at work at once.
    pub(super) fn with<T>(
        &self,
        open: impl FnOnce() -> Result<Box<dyn Statements>, StatementsError>,
        work: impl FnOnce(&mut dyn Statements) -> Result<T, StatementsError>,
    ) -> Result<T, StatementsError> {
        let mut connections = self.connections();
        if self.is_alone {
            let is_taken = |all: &mut Connections| all.opened > 0 && all.idle.is_empty();
            let waited = self.freed.wait_while(connections, is_taken);
            connections = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let idle = connections.idle.pop();
        connections.opened += usize::from(idle.is_none());
        drop(connections);
        let taken = Taken { of: self, statements: idle };
        taken.work(open, work)
    }

    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection while it is used. It is given back by a panic, too.
struct Taken<'a> {
    of: &'a Database,
    statements: Option<Box<dyn Statements>>,
}

impl Taken<'_> {
    fn work<T>(
        mut self,
        open: impl FnOnce() -> Result<Box<dyn Statements>, StatementsError>,
        work: impl FnOnce(&mut dyn Statements) -> Result<T, StatementsError>,
    ) -> Result<T, StatementsError> {
        let statements = match self.statements.take() {
            Some(statements) => statements,
            None => open()?,
        };
        work(&mut **self.statements.insert(statements))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut connections = self.of.connections();
        match self.statements.take() {
            Some(statements) => connections.idle.push(statements),
            None => connections.opened -= 1,
        }
        drop(connections);
        self.of.freed.notify_one();
    }
}
