//! The program `piton`: arguments and output. All decisions are the engine's.

mod args;
mod command;
mod exit;
mod opening;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Arguments, Command};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no mistake; everything else is bad usage.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::FINISHED });
        }
    };
    if let Err(what) = arm_faults() {
        return exit::Failure::usage(what).report();
    }
    match dispatch(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

fn dispatch(arguments: Arguments) -> Result<u8, exit::Failure> {
    use crate::command as to;
    match arguments.command {
        Command::Run(run) => to::run::run(run),
        Command::Plan(plan) => to::plan::plan(&plan),
        Command::Init(init) => to::init::init(&init),
        Command::Schema => to::init::schema(),
        Command::Status(status) => to::status::status(&status),
        Command::History(history) => to::history::history(&history),
        Command::Reset(reset) => to::steer::reset(&reset),
        Command::Rewind(rewind) => to::steer::rewind(&rewind),
        Command::Pause(named) => to::steer::control(&named, piton_core::Control::Pause),
        Command::Resume(named) => to::steer::control(&named, piton_core::Control::Run),
        Command::Cancel(named) => to::steer::control(&named, piton_core::Control::Cancel),
        Command::DeadLetters(letters) => to::dead_letters::dead_letters(&letters),
        Command::Backup(backup) => to::transfer::backup(&backup),
        Command::Export(export) => to::transfer::export(&export),
        Command::Import(import) => to::transfer::import(&import),
        Command::Completions { shell } => to::generate::completions(shell),
        Command::Man => to::generate::man(),
    }
}

/// Fault points are armed by the crash harness, never in ordinary use.
fn arm_faults() -> Result<(), String> {
    if let Ok(bad) = std::env::var("PITON_KNOWN_BAD") {
        piton_core::fault::turn_bad(&bad);
    }
    match std::env::var("PITON_FAULT") {
        Ok(text) => piton_core::fault::arm_from(&text, kill_self),
        Err(_) => Ok(()),
    }
}

/// Dies at once, as from `kill -9`: nothing is flushed, no destructor runs.
fn kill_self() {
    #[cfg(unix)]
    let _ = signal_hook::low_level::raise(9);
    std::process::abort();
}
