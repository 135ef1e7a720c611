//! Placeholder.

pub mod config;
pub mod transform;
