//! Servers that a process in the background holds.
//!
//! For each name there are three files in `target/services`: a lock, which that process keeps
//! while the server is up; the URL, by whose removal it is asked to end; and what it has said.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use piton_testkit::service::{MariaDb, MySql, Options, Postgres, ServiceError};

use super::USAGE;
use crate::command::{Failure, line, root};

/// How often the holding process looks whether it shall end.
const LOOK: Duration = Duration::from_millis(100);

/// Installs or fetches what the tests need.
pub(super) fn fetch() -> Result<(), Failure> {
    let wanted = [
        Postgres::options(),
        Postgres::options().version(18),
        MySql::options(),
        MariaDb::options(),
    ];
    wanted.iter().try_for_each(Options::fetch).map_err(|error| failure(&error))
}

/// Leaves a process behind that holds the server, and prints the server's URL.
pub(super) fn up(name: &str, rest: &[&str]) -> Result<(), Failure> {
    options(name, rest)?;
    let files = Files::of(name)?;
    if files.lock()?.is_none() {
        let url = std::fs::read_to_string(&files.url).map_err(Failure::at(&files.url))?;
        eprintln!("{name} is up already; `cargo xtask services down {name}` ends it");
        println!("{url}");
        return Ok(());
    }
    let itself = std::env::current_exe().map_err(Failure::at(Path::new("xtask")))?;
    let log = File::create(&files.log).map_err(Failure::at(&files.log))?;
    let mut hold = Command::new(itself);
    hold.args(["services", "hold", name]).args(rest).stdin(Stdio::null());
    hold.stdout(Stdio::piped()).stderr(log).process_group(0);
    let mut holder = hold.spawn().map_err(|error| Failure::Start(line(&hold), error))?;
    let mut url = String::new();
    if let Some(said) = holder.stdout.take() {
        BufReader::new(said).read_line(&mut url).map_err(Failure::at(&files.log))?;
    }
    if url.is_empty() {
        let log = std::fs::read_to_string(&files.log).map_err(Failure::at(&files.log))?;
        return Err(Failure::Found(log.trim_start_matches("xtask: ").trim_end().to_owned()));
    }
    print!("{url}");
    Ok(())
}

/// Holds the server until its URL is taken away: what `up` leaves behind.
pub(super) fn hold(name: &str, rest: &[&str]) -> Result<(), Failure> {
    let files = Files::of(name)?;
    let Some(_lock) = files.lock()? else {
        return Err(Failure::Usage(format!("{name} is up already")));
    };
    // Before the server is there, so that `down` can say that it is not wanted any more.
    let mut url = File::create(&files.url).map_err(Failure::at(&files.url))?;
    let server = options(name, rest)?.start().map_err(|error| failure(&error))?;
    write!(url, "{}", server.url()).map_err(Failure::at(&files.url))?;
    println!("{}", server.url());
    while files.url.exists() {
        thread::sleep(LOOK);
    }
    drop(server);
    Ok(())
}

/// Asks the process that holds the server to end, and waits until it has.
pub(super) fn down(name: &str) -> Result<(), Failure> {
    options(name, &[])?;
    let files = Files::of(name)?;
    if files.lock()?.is_some() {
        eprintln!("{name} is not up");
        return Ok(());
    }
    match std::fs::remove_file(&files.url) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Failure::File(files.url, error)),
        _ => {
            let lock = File::create(&files.lock).map_err(Failure::at(&files.lock))?;
            lock.lock().map_err(Failure::at(&files.lock))
        }
    }
}

struct Files {
    lock: PathBuf,
    url: PathBuf,
    log: PathBuf,
}

impl Files {
    fn of(name: &str) -> Result<Self, Failure> {
        let folder = root().join("target/services");
        std::fs::create_dir_all(&folder).map_err(Failure::at(&folder))?;
        let file = |kind: &str| folder.join(format!("{name}.{kind}"));
        Ok(Self { lock: file("lock"), url: file("url"), log: file("log") })
    }

    /// The lock, unless another process has it.
    fn lock(&self) -> Result<Option<File>, Failure> {
        let lock = File::create(&self.lock).map_err(Failure::at(&self.lock))?;
        Ok(lock.try_lock().is_ok().then_some(lock))
    }
}

fn options(name: &str, rest: &[&str]) -> Result<Options, Failure> {
    let usage = |what: String| Failure::Usage(format!("{what}\n\n{USAGE}"));
    let mut options = match name {
        "postgres" => Postgres::options(),
        "mysql" => MySql::options(),
        "mariadb" => MariaDb::options(),
        other => return Err(usage(format!("there is no service '{other}'"))),
    };
    let mut rest = rest.iter();
    while let Some(option) = rest.next() {
        if *option == "--tls" {
            options = options.tls();
            continue;
        }
        let missing = || usage(format!("'{option}' is no option, or lacks its value"));
        let value = rest.next().ok_or_else(missing)?;
        options = match *option {
            "--version" => options.version(value.parse().map_err(|_| missing())?),
            "--password" => options.password(value),
            "--line" => options.line(value),
            _ => return Err(missing()),
        };
    }
    Ok(options)
}

fn failure(error: &ServiceError) -> Failure {
    Failure::Found(error.to_string())
}
