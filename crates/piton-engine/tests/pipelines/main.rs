//! The engine on a source of numbers and sinks that misbehave on request.

mod parts;
mod policies;
mod resuming;
mod trouble;
