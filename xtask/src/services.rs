//! `cargo xtask services`: the servers that tests start, by hand.
//!
//! They are the testkit's, and die with the process that started them: so `up` leaves a process
//! behind that holds one, until `down` takes away the file with its URL. The data is temporary.
//! The testkit is large, so this is built with the feature `services`, by this program calling
//! cargo on itself.

use crate::command::Failure;

#[cfg(all(feature = "services", unix))]
mod held;

const USAGE: &str = "\
Usage: cargo xtask services up NAME [OPTIONS]   start a server, print its URL
       cargo xtask services down NAME           end it, its data too
       cargo xtask services fetch               install or fetch what all of them need

NAME is postgres, mysql or mariadb.

  --version N      this major version: PostgreSQL 15 to 18
  --tls            TLS only, with an authority of its own
  --password TEXT  the user's password
  --line TEXT      a further line of configuration
";

#[cfg(not(feature = "services"))]
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    use crate::command::{become_it, cargo};
    if args.is_empty() {
        return Err(Failure::Usage(USAGE.to_owned()));
    }
    let mut itself = cargo(["run", "--quiet", "--package", "xtask", "--features", "services"]);
    become_it(itself.args(["--", "services"]).args(args))
}

#[cfg(all(feature = "services", not(unix)))]
pub(crate) fn run(_: &[String]) -> Result<(), Failure> {
    Err(Failure::Usage("services can be started on Unix systems only".to_owned()))
}

#[cfg(all(feature = "services", unix))]
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["fetch"] => held::fetch(),
        ["up", name, rest @ ..] => held::up(name, rest),
        ["down", name] => held::down(name),
        ["hold", name, rest @ ..] => held::hold(name, rest),
        _ => Err(Failure::Usage(USAGE.to_owned())),
    }
}
