//! The crash harness: what tests need to break Piton from outside and to judge what is left.
//!
//! Nothing here believes what the program says of itself. A test starts the real program as a
//! child process ([`program`]), kills it at a named fault point or at a progress that is read from
//! the sink's own data, lets it finish, and compares the source's records with the sink's as
//! multisets ([`ledger`]). A receiver of HTTP requests that is slow, hung, refusing or gone on
//! command stands in for the systems that misbehave ([`receiver`]). A simulated power loss takes
//! away what was not synced ([`power`]). Real database servers can be started, killed and started
//! again ([`service`]). Chance has a seed that is printed and can be given again
//! ([`dice`]).
//!
//! A dev-dependency only: no program depends on it.

pub mod dice;
pub mod ledger;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub mod power;
#[cfg(unix)]
pub mod program;
pub mod receiver;
#[cfg(unix)]
pub mod service;

pub use dice::Dice;
pub use ledger::{Ledger, Report};
#[cfg(unix)]
pub use program::{Ended, HarnessError, Program, Running};
pub use receiver::{Mode, Receiver};
