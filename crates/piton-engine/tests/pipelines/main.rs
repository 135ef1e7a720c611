//! The engine on a source of numbers and sinks that misbehave on request.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may")]

mod parts;
mod policies;
mod resuming;
mod trouble;
