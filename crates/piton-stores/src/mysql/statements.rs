//! Statements without parameters, several in one text.

use mysql::{Conn, Error, prelude::Queryable as _};

/// Runs statements and hears what the server says to each of them. `Queryable::query_drop` of the
/// driver hears the first answer only, so that a later statement fails without a word.
///
/// # Errors
/// What the server says to the first statement that fails; those after it are not run.
pub fn run(conn: &mut Conn, sql: &str) -> Result<(), Error> {
    let mut answers = conn.query_iter(sql)?;
    while let Some(answer) = answers.iter() {
        for row in answer {
            row?;
        }
    }
    Ok(())
}
