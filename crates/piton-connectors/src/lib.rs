//! Sources and sinks: one folder per system.
//!
//! Data flows one way: a [`Reader`](source::Reader) fills a [`Batch`](batch::Batch), transforms
//! change it, and a sink takes it, either inside a transaction that also holds the checkpoint
//! ([`TransactionalSink`](sink::TransactionalSink)) or plainly, promising durability later
//! ([`PlainSink`](sink::PlainSink)). Connectors block: each runs on a thread of its own, and an
//! asynchronous client lives behind its connector's door.

pub mod batch;
pub mod command;
pub mod conformance;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub mod deletes;
pub mod file;
pub mod http;
mod kept;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod key_part;
#[cfg(feature = "mysql")]
pub mod mysql;
mod orders;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "postgres")]
pub mod postgres_outbox;
pub mod settings;
mod shape;
mod shown;
pub mod sink;
pub mod source;
pub mod sql_statements;
pub mod sqlite;
pub mod stdout;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod table_name;
