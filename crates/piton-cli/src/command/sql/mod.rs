//! `piton sql …`: one file for each of its commands.

mod postgres;
mod postgres_outbox;

use crate::{
    args::{Sql, SqlCommand},
    exit::Failure,
};

/// Prints what a database shares with Piton.
pub(crate) fn sql(args: &Sql) -> Result<u8, Failure> {
    match &args.command {
        SqlCommand::Postgres => postgres::print(),
        SqlCommand::PostgresOutbox(outbox) => postgres_outbox::print_or_check(outbox),
    }
}
