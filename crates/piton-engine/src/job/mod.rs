//! Jobs: a tree of steps, each a bounded pipeline, SQL or a command, with an end.

pub mod definition;
mod lock;
pub mod script;
