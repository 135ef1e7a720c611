//! Files that describe a job: read and checked as far as that goes without running anything.
//!
//! A job's file is the same YAML with the same places, filled from the environment by the same
//! hand. Its steps are then read one by one (`steps`), so that what is wrong with one does not hide
//! what is wrong with another. What a step moves is a pipeline's file in itself: it is taken out of
//! the tree with what it inherits, and read and checked by the pipeline's own reader (`template`).
//! Names that only a run knows are looked up in what is declared (`references`), and put where they
//! stand in a form that can be nothing but a value (`fill`, `sql`).

mod actions;
mod bodies;
mod describe;
pub(in crate::config) mod file;
mod fill;
mod order;
mod outputs;
mod references;
mod sql;
mod steps;
mod template;

pub(super) use self::steps::job;
pub use self::template::Template;

#[cfg(test)]
mod tests;
