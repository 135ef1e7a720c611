//! Commands: a source and a sink in any language, at least once.
//!
//! A source's command prints records as JSON lines; the value of its key is where it stands, and a
//! resume hands the last one back in `PITON_POSITION`. A sink's command reads records with their
//! stable ids and prints the ids of those that it has made durable. Both hang on pipes, so that
//! whoever is slower is waited for, and on a process group of their own, which is ended with the
//! run ([`process`]).

mod answers;
mod lines;
mod position;
pub mod process;
mod reader;
mod records;
mod running;
mod settings;
mod sink;
mod source;
#[cfg(test)]
mod tests;

pub use lines::{Listener, PassOn, pass_on_by};
pub use position::CommandPosition;
pub use running::Tries;
pub use settings::{CommandSettings, CommandSinkSettings};
pub use sink::CommandSink;
pub use source::CommandSource;
