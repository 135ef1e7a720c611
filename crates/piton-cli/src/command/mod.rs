//! One file for each command.

pub(crate) mod dead_letters;
pub(crate) mod generate;
pub(crate) mod history;
pub(crate) mod init;
pub(crate) mod job;
mod live;
pub(crate) mod plan;
pub(crate) mod run;
#[cfg(feature = "postgres")]
pub(crate) mod sql;
pub(crate) mod status;
pub(crate) mod steer;
pub(crate) mod step;
pub(crate) mod transfer;
