//! Jobs: trees of steps.

mod lock;
pub mod script;
