//! The program `piton`: arguments and output. All decisions are the engine's.
//!
//! It is a library of one function so that two programs can be made of it: `piton`, and one with
//! known-bad behaviour that the crash harness has to catch.

// They panic when nobody reads: see `output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod command;
mod exit;
mod opening;
mod outlet;
mod output;

use std::{
    fs::File,
    io::{self, Write},
    process::ExitCode,
    sync::OnceLock,
};

use clap::{
    Parser,
    error::{ContextKind, ContextValue},
};
use piton_core::fault;

use crate::args::{Arguments, Command};

/// Does what the arguments of this process say.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            if let Some(command) = planned(&error) {
                return exit::Failure::usage(format!(
                    "`piton {command}` is not built yet: `piton help` lists what there is"
                ))
                .report();
            }
            // Help and version are no mistake; everything else is bad usage.
            let _ = error.print();
            let is_step = std::env::args_os().nth(1).is_some_and(|first| first == "step");
            let usage = if is_step { command::step::STEP_USAGE } else { exit::USAGE };
            return ExitCode::from(if error.use_stderr() { usage } else { exit::FINISHED });
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

/// A command that Piton is to have and has not yet.
fn planned(error: &clap::Error) -> Option<&str> {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) => {
            Some(name.as_str()).filter(|name| ["torture", "serve"].contains(name))
        }
        _ => None,
    }
}

fn dispatch(arguments: Arguments) -> Result<u8, exit::Failure> {
    use crate::command as to;
    match arguments.command {
        Command::Run(run) => to::run::run(&run),
        Command::Plan(plan) => to::plan::plan(&plan),
        Command::Init(init) => to::init::init(&init),
        Command::Schema => to::init::schema(),
        #[cfg(feature = "postgres")]
        Command::Sql(sql) => to::sql::sql(&sql),
        Command::Status(status) => to::status::status(&status),
        Command::History(history) => to::history::history(&history),
        Command::Reset(reset) => to::steer::reset(&reset),
        Command::Rewind(rewind) => to::steer::rewind(&rewind),
        Command::Pause(named) => to::steer::control(&named, piton_core::Control::Pause),
        Command::Resume(named) => to::steer::control(&named, piton_core::Control::Run),
        Command::Cancel(named) => to::steer::control(&named, piton_core::Control::Cancel),
        Command::MarkDone(args) => to::job::mark_done(&args),
        Command::Step(step) => to::step::step(&step),
        Command::Position(position) => to::step::position(&position),
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
        fault::turn_bad(&bad);
    }
    if let Ok(path) = std::env::var("PITON_TRACE") {
        trace_to(&path).map_err(|error| format!("PITON_TRACE: {path}: {error}"))?;
    }
    match std::env::var("PITON_FAULT") {
        Ok(text) => fault::arm_from(&text, kill_self, stop_self),
        Err(_) => Ok(()),
    }
}

static TRACE: OnceLock<File> = OnceLock::new();

/// Writes what the fault points tell to the end of a file.
fn trace_to(path: &str) -> io::Result<()> {
    let _ = TRACE.set(File::options().create(true).append(true).open(path)?);
    fault::listen(|line| {
        if let Some(mut file) = TRACE.get() {
            // In one write, so that lines of several threads stay whole.
            let _ = file.write_all(format!("{line}\n").as_bytes());
        }
    });
    Ok(())
}

/// Dies at once, as from `kill -9`: nothing is flushed, no destructor runs.
fn kill_self() {
    #[cfg(unix)]
    let _ = signal_hook::low_level::raise(9);
    std::process::abort();
}

/// Stops, as from `kill -STOP`, until somebody sends a CONT.
fn stop_self() {
    #[cfg(unix)]
    let _ = signal_hook::low_level::raise(signal_hook::consts::SIGSTOP);
}
