//! Jobs: a tree of steps, each a bounded pipeline, SQL or a command, with an end.

mod age;
mod body;
pub mod definition;
mod lock;
mod outline;
pub mod run;
pub mod script;
pub mod steer;
mod stepping;
pub mod view;
mod walk;

use piton_core::PipelineRecord;

/// Whether what the store knows under a name is a job: of a file, a script, or a program.
pub fn is_job(record: &PipelineRecord) -> bool {
    record.source == piton::job::SOURCE
}
