//! The processes of a server: how they are started, found, struck, and outlived by nobody.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::{
        fs::chown,
        process::{CommandExt, ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::ServiceError;

/// How often a process that is waited for is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// Writes its process id, which the watching shell reads, and becomes the program. Without the
/// file, the folder is being removed and nothing must start.
const LAUNCH: &str = r#"echo $$ >"$0" && exec "$@""#;
const WATCH: &str = include_str!("watch.sh");

/// A user of this machine: some servers refuse to run as root.
#[derive(Debug, Clone, Copy)]
pub(super) struct Account {
    user: u32,
    group: u32,
}

impl Account {
    /// Whether this process is root's.
    pub(super) fn is_root() -> bool {
        geteuid().is_root()
    }

    /// The first of these users that there is.
    pub(super) fn of(names: &[&str]) -> Option<Self> {
        let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
        let find = |name: &&str| {
            let line = accounts.lines().find(|line| line.split(':').next() == Some(*name))?;
            let mut fields = line.split(':').skip(2);
            let user = fields.next()?.parse().ok()?;
            Some(Self { user, group: fields.next()?.parse().ok()? })
        };
        names.iter().find_map(find)
    }

    /// Hands a file or folder over.
    pub(super) fn give(account: Option<Self>, path: &Path) -> Result<(), ServiceError> {
        let Some(Self { user, group }) = account else { return Ok(()) };
        chown(path, Some(user), Some(group)).map_err(ServiceError::at(path))
    }
}

/// A temporary folder, watched: once this process is gone, or drops it, what was launched in it is
/// ended and it is removed.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) folder: PathBuf,
    account: Option<Account>,
    shell: Child,
    /// Its other end is the shell's standard input.
    held: Option<ChildStdin>,
}

impl Watched {
    /// A fresh folder. `ending` is the signal that ends the server quickly.
    pub(super) fn folder(
        name: &str,
        ending: &str,
        account: Option<Account>,
    ) -> Result<Self, ServiceError> {
        let prefix = format!("piton-{}-", name.to_lowercase());
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
        let folder = folder.map_err(ServiceError::doing("making a temporary folder"))?;
        Account::give(account, folder.path())?;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", WATCH, "watch"]).arg(folder.path()).arg(ending).current_dir("/");
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own: a signal to the group of the test must not end who watches it.
        let mut shell =
            shell.process_group(0).spawn().map_err(ServiceError::doing("starting /bin/sh"))?;
        let held = shell.stdin.take();
        Ok(Self { folder: folder.keep(), account, shell, held })
    }

    /// What is launched here writes its standard output and error to this file.
    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// A program to be launched in the folder, as the folder's owner. The folder, or something in
    /// it, must be among the arguments that are added.
    pub(super) fn launch(&self, program: impl AsRef<Path>) -> Result<Command, ServiceError> {
        let log = self.log();
        let open = OpenOptions::new().create(true).append(true).open(&log);
        let open: File = open.map_err(ServiceError::at(&log))?;
        let again = open.try_clone().map_err(ServiceError::at(&log))?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", LAUNCH]).arg(self.pid_file()).arg(program.as_ref());
        command.current_dir(&self.folder).env("LC_ALL", "C");
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|n| n.starts_with("PG") || n.starts_with("MYSQL")) {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(open).stderr(again).process_group(0);
        if let Some(Account { user, group }) = self.account {
            command.uid(user).gid(group);
        }
        Ok(command)
    }

    /// Forgets the process that was launched last: it was waited for, and its id may become
    /// another's.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_file(self.pid_file());
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("pid")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        drop(self.held.take());
        let _ = self.shell.wait();
    }
}

/// A process and its children, as far as the system tells.
pub(super) fn family(parent: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
    let children = children.unwrap_or_default();
    std::iter::once(parent)
        .chain(children.split_whitespace().filter_map(|pid| pid.parse().ok()))
        .collect()
}

/// Sends a signal to each. A process that is gone is none to complain about.
pub(super) fn signal(processes: &[u32], signal: Signal) -> Result<(), ServiceError> {
    for pid in processes.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
        match kill_process(pid, signal) {
            Err(error) if error != rustix::io::Errno::SRCH => {
                let what = format!("sending {signal:?} to process {pid:?}");
                return Err(ServiceError::System { what, error: error.into() });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Waits until a child has ended, or for as long as there is patience.
pub(super) fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let began = Instant::now();
    loop {
        match child.try_wait()? {
            None if began.elapsed() < patience => thread::sleep(LOOK),
            ended => return Ok(ended),
        }
    }
}

/// Waits until processes that are not our children have ended. One that is dead and was not yet
/// waited for by its parent counts as ended: it holds nothing any more.
pub(super) fn wait_for_strangers(processes: &[u32], patience: Duration) -> bool {
    let began = Instant::now();
    while processes.iter().any(|pid| has_memory(*pid)) {
        if began.elapsed() > patience {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}

/// A process that runs has a command line, one that has ended has none.
fn has_memory(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// How a process ended, in words.
pub(super) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "an unknown end".to_owned(),
    }
}
