//! `cargo xtask …`: the one entry for development.
//!
//! Whatever a person or a machine does to this repository beyond `cargo build` is a command here,
//! in Rust, so that it works the same everywhere and is itself linted and tested. The benchmarks
//! sit behind the feature `bench`, and what starts servers behind `services`: without them this
//! program is small, and `cargo demo`, which starts it too, is quick to build.

mod bench;
mod command;
mod demo;
mod demo_data;
mod lint;
mod services;
mod test;

use std::process::ExitCode;

use command::Failure;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test [ARGS…]         run all tests; ARGS go to `cargo test`
  lint                 format, clippy, docs, house rules, licences
  bench [NAME…]        run benchmarks, all or by name (`bench list` names them)
  services COMMAND…    the servers that tests start, by hand: up, down, fetch
  demo [fresh]         build piton and run demo/flights.yaml; `fresh` forgets the earlier runs
  demo-data FULL.csv   cut demo/flights.csv anew from the full nycflights13 table
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (name, rest) = match args.split_first() {
        Some((name, rest)) => (name.as_str(), rest),
        None => ("help", args.as_slice()),
    };
    let done = match name {
        "test" => test::run(rest),
        "lint" => lint::run(),
        "bench" => bench::run(rest),
        "services" => services::run(rest),
        "demo" => demo::run(rest),
        "demo-data" => demo_data::run(rest),
        "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(Failure::Usage(format!("there is no command '{other}'.\n\n{USAGE}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            failure.exit_code()
        }
    }
}
