//! Rows of a query on their way: asked for by a thread, so that the server works while rows are
//! made of what it gave before, and no more of them are held than a few mebibytes.

use std::{
    mem,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread, vec,
};

use mysql::{Conn, Error, Row, Value, prelude::Queryable as _};

/// Text of rows that is handed over at once, in bytes; a row may be larger.
const CHUNK: usize = 1 << 20;
/// The most rows that are handed over at once.
const CHUNK_ROWS: usize = 512;
/// How many chunks may wait.
const WAITING: usize = 2;

/// Rows of one query.
pub(super) struct Rows {
    chunks: Receiver<Chunk>,
    now: vec::IntoIter<Row>,
    /// A row that was given back.
    left: Option<Row>,
    /// The connection, once all rows were taken.
    pub(super) conn: Option<Conn>,
}

enum Chunk {
    Rows(Vec<Row>),
    End(Result<Conn, Error>),
}

impl Rows {
    /// Asks a query. The connection comes back when all rows were taken.
    pub(super) fn ask(conn: Conn, sql: String) -> Result<Self, Error> {
        let (sender, chunks) = sync_channel(WAITING);
        thread::Builder::new()
            .name("mysql rows".into())
            .spawn(move || fetch(conn, &sql, &sender))?;
        Ok(Self { chunks, now: Vec::new().into_iter(), left: None, conn: None })
    }

    /// The next row; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Row>, Error> {
        loop {
            if let Some(row) = self.left.take().or_else(|| self.now.next()) {
                return Ok(Some(row));
            }
            match self.chunks.recv() {
                Ok(Chunk::Rows(rows)) => self.now = rows.into_iter(),
                Ok(Chunk::End(ended)) => {
                    self.conn = Some(ended?);
                    return Ok(None);
                }
                // Nothing comes after the end.
                Err(_) => return Ok(None),
            }
        }
    }

    /// Gives a row back, to be the next.
    pub(super) fn put_back(&mut self, row: Row) {
        self.left = Some(row);
    }
}

fn fetch(mut conn: Conn, sql: &str, to: &SyncSender<Chunk>) {
    let fetched = send_rows(&mut conn, sql, to);
    let end = match fetched {
        Ok(true) => Ok(conn),
        // Nobody wants more.
        Ok(false) => return,
        Err(error) => Err(error),
    };
    let _ = to.send(Chunk::End(end));
}

/// Sends all rows; false when nobody takes them.
fn send_rows(conn: &mut Conn, sql: &str, to: &SyncSender<Chunk>) -> Result<bool, Error> {
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for row in conn.query_iter(sql)? {
        let row = row?;
        bytes += size(&row);
        rows.push(row);
        if rows.len() >= CHUNK_ROWS || bytes >= CHUNK {
            bytes = 0;
            if to.send(Chunk::Rows(mem::take(&mut rows))).is_err() {
                return Ok(false);
            }
        }
    }
    Ok(to.send(Chunk::Rows(rows)).is_ok())
}

/// How many bytes of text a row has.
pub(super) fn size(row: &Row) -> usize {
    let bytes = |column: usize| match row.as_ref(column) {
        Some(Value::Bytes(bytes)) => bytes.len(),
        _ => 0,
    };
    (0..row.len()).map(bytes).sum()
}

/// A value of a row as the server wrote it; `None` for NULL.
pub(super) fn value(row: &Row, column: usize) -> Option<&[u8]> {
    match row.as_ref(column) {
        Some(Value::Bytes(bytes)) => Some(bytes),
        _ => None,
    }
}
