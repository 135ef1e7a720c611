//! `cargo demo`: builds the program with its embedded features only and runs `demo/flights.yaml`.
//!
//! The program takes this one's place (`exec`), so that Ctrl-C, a `kill` and the exit code are the
//! program's own, as if it had been started by hand.

use std::{io::ErrorKind, path::Path, process::Command};

use crate::command::{Failure, become_it, cargo, piton_binary, root, run as run_to_end};

const HINT: &str = "\
Reading demo/flights.csv into demo/out.db, slowed down to last half a minute.
Interrupt it with Ctrl-C, or `kill -9` it from another terminal, and type `cargo demo` again:
it goes on where it was. `cargo demo fresh` begins anew. To see how far it is, from another terminal:
sqlite3 demo/out.db 'select count(*), max(id) from flights'
";

/// What an earlier run of the demo leaves.
const LEFT: &[&str] = &["out.db", "piton.db"];

/// Runs the demo, after forgetting earlier runs if asked to.
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => {}
        ["fresh"] => forget(&root().join("demo"))?,
        _ => return Err(Failure::Usage("demo takes no argument but `fresh`".to_owned())),
    }
    let mut build = cargo(["build", "--package", "piton-cli", "--bin", "piton"]);
    run_to_end(build.arg("--no-default-features"))?;
    println!("\n{HINT}");
    let mut piton = Command::new(piton_binary("debug")?);
    become_it(piton.args(["run", "demo/flights.yaml"]).current_dir(root()))
}

/// Removes the databases of earlier runs, with the files that `SQLite` keeps beside them.
fn forget(folder: &Path) -> Result<(), Failure> {
    for database in LEFT {
        for beside in ["", "-wal", "-shm", "-journal", ".lock"] {
            let path = folder.join(format!("{database}{beside}"));
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Failure::File(path, error));
                }
                _ => {}
            }
        }
    }
    Ok(())
}
