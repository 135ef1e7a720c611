//! The settings of the connectors, as they stand in a file: each connector's own types, under the
//! names that the file format knows them by. Adding a connector adds a line here.

#[cfg(feature = "mysql")]
pub use piton_connectors::mysql::MySqlSettings as MySqlSink;
pub use piton_connectors::{
    command::{CommandSettings as CommandSource, CommandSinkSettings as CommandSink},
    file::{
        CsvSettings as CsvSource, CsvSinkSettings as CsvSink, JsonlSettings as JsonlSource,
        JsonlSinkSettings as JsonlSink,
    },
    http::HttpSettings as HttpSink,
    sqlite::{SqlSettings as SqlSource, SqliteSettings as SqliteSink},
    stdout::StdoutSettings as StdoutSink,
};
#[cfg(feature = "postgres")]
pub use piton_connectors::{
    postgres::PostgresSettings as PostgresSink, postgres_outbox::OutboxSettings as OutboxSource,
};
