//! The one statement that moves a checkpoint, in whichever driver's transaction.

use std::future::Future;

use tokio_postgres::types::Type;

/// What the function of the database is asked.
#[derive(Debug)]
pub struct Move<'a> {
    pub(super) processor: &'a str,
    pub(super) partition: &'a str,
    pub(super) version: i32,
    pub(super) transaction_id: String,
    pub(super) position: i64,
    pub(super) expected_transaction_id: Option<String>,
    pub(super) expected_position: Option<i64>,
    pub(super) epoch: i64,
    pub(super) handled: i64,
    pub(super) fingerprint: Option<String>,
}

/// What it answers.
#[derive(Debug)]
pub struct Moved {
    pub(super) outcome: i32,
    pub(super) stored: Option<String>,
    pub(super) version: i64,
    pub(super) fence: i64,
}

const SQL: &str = "SELECT outcome, stored, stored_version, fence FROM piton.move_processor(
    $1, $2, $3, $4::text::xid8, $5, $6::text::xid8, $7, true, $8, false, $9, $10)";

mod sealed {
    pub trait Sealed {}
}

/// A transaction that a checkpoint can be part of: `tokio_postgres::Transaction`, and with the
/// feature `sqlx-postgres` `sqlx::Transaction<Postgres>`.
pub trait InTransaction: sealed::Sealed {
    /// What the driver fails with.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Moves a checkpoint.
    fn move_checkpoint(
        &mut self,
        to: &Move<'_>,
    ) -> impl Future<Output = Result<Moved, Self::Error>> + Send;
}

impl sealed::Sealed for tokio_postgres::Transaction<'_> {}

impl InTransaction for tokio_postgres::Transaction<'_> {
    type Error = tokio_postgres::Error;

    async fn move_checkpoint(&mut self, to: &Move<'_>) -> Result<Moved, Self::Error> {
        // With their types, so that it is one journey to the server.
        let row = self
            .query_typed(
                SQL,
                &[
                    (&to.processor, Type::TEXT),
                    (&to.partition, Type::TEXT),
                    (&to.version, Type::INT4),
                    (&to.transaction_id, Type::TEXT),
                    (&to.position, Type::INT8),
                    (&to.expected_transaction_id, Type::TEXT),
                    (&to.expected_position, Type::INT8),
                    (&to.epoch, Type::INT8),
                    (&to.handled, Type::INT8),
                    (&to.fingerprint, Type::TEXT),
                ],
            )
            .await?;
        let Some(row) = row.first() else {
            // A function that returns a record returns one.
            return Ok(Moved { outcome: 3, stored: None, version: 0, fence: 0 });
        };
        Ok(Moved {
            outcome: row.try_get(0)?,
            stored: row.try_get(1)?,
            version: row.try_get(2)?,
            fence: row.try_get(3)?,
        })
    }
}

#[cfg(feature = "sqlx-postgres")]
mod of_sqlx {
    use sqlx_core::{query_as::query_as, transaction::Transaction};
    use sqlx_postgres::Postgres;

    use super::{InTransaction, Move, Moved, SQL, sealed};

    type Row = (i32, Option<String>, i64, i64);

    impl sealed::Sealed for Transaction<'_, Postgres> {}

    impl InTransaction for Transaction<'_, Postgres> {
        type Error = sqlx_core::Error;

        async fn move_checkpoint(&mut self, to: &Move<'_>) -> Result<Moved, Self::Error> {
            let (outcome, stored, version, fence): Row = query_as::<Postgres, Row>(SQL)
                .bind(to.processor)
                .bind(to.partition)
                .bind(to.version)
                .bind(&to.transaction_id)
                .bind(to.position)
                .bind(&to.expected_transaction_id)
                .bind(to.expected_position)
                .bind(to.epoch)
                .bind(to.handled)
                .bind(&to.fingerprint)
                .fetch_one(&mut **self)
                .await?;
            Ok(Moved { outcome, stored, version, fence })
        }
    }
}
