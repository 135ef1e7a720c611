//! Mail for each message of an outbox, exactly once. `DATABASE_URL` names the database.

use piton::postgres::{Database, Message, Processor};
use tokio_postgres::Transaction;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let database = Database::open(&std::env::var("DATABASE_URL")?)?;
    let processor = Processor::new(&database, "mailer");
    processor
        .run(async |batch: &[Message], tx: &Transaction<'_>| {
            for message in batch {
                // A unique key on the id makes a repeat visible, whatever its cause.
                let sql = "INSERT INTO mail (id, body) VALUES ($1, $2)";
                tx.execute(sql, &[&message.id, &message.data]).await?;
            }
            Ok(())
        })
        .await?;
    Ok(())
}
