//! Jobs: a tree of steps, each a bounded pipeline, SQL or a command, with an end.

mod age;
mod body;
mod changed;
pub mod definition;
mod foreseen;
mod instances;
pub mod kept;
pub mod letters;
mod lock;
pub(crate) mod orphan;
mod outline;
pub mod plan;
pub mod run;
mod said;
pub mod script;
pub mod steer;
mod stepping;
pub mod view;
mod walk;
pub(crate) mod within;

pub use piton_connectors::command::pass_on_by;
use piton_core::PipelineRecord;

pub use self::instances::{instances, with_params};

/// Whether what the store knows under a name is a job: of a file, a script, or a program.
pub fn is_job(record: &PipelineRecord) -> bool {
    record.source == piton::job::SOURCE
}

/// Whether it is the job of a script or a program, for which there is no `piton run`.
pub fn is_without_file(record: &PipelineRecord) -> bool {
    is_job(record) && record.file.is_none()
}
