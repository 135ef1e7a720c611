//! A server, whichever it is.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::Signal;

use super::{
    ServiceError, authority, package,
    port::Port,
    process::{self, Account, LOOK, Watched},
};

/// How long making a database may take, starting and stopping: seconds on a quiet machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// How long a server that was killed may be in the way of its successor.
const SETTLING: Duration = Duration::from_secs(10);

/// What is different from one database system to the next.
pub(super) trait System: fmt::Debug + Sync {
    /// What it is called in messages and in the names of folders.
    fn name(&self) -> &'static str;
    /// Finds or fetches its programs.
    fn programs(&self, version: Option<u32>) -> Result<PathBuf, ServiceError>;
    /// As whom it has to run, when not as ourselves.
    fn account(&self) -> Option<Account> {
        None
    }
    /// The signal by which it ends quickly, for the watching shell, without `SIG`.
    fn ending(&self) -> &'static str {
        "KILL"
    }
    /// The signal by which it shuts down cleanly, ending its clients' sessions.
    fn stopping(&self) -> Signal {
        Signal::TERM
    }
    /// Makes its data in the folder.
    fn initialise(&self, place: &Place) -> Result<(), ServiceError>;
    /// The command that serves the data.
    fn serve(&self, place: &Place) -> Result<Command, ServiceError>;
    /// Whether the server with this process id answers.
    fn is_ready(&self, place: &Place, pid: u32) -> bool;
    /// Runs a statement as the administrator, whatever passwords and TLS others need.
    fn administer(&self, place: &Place, statement: &str) -> Result<(), String>;
    /// The user who may do everything.
    fn user(&self) -> &'static str;
    /// That user's password where none was asked for.
    fn default_password(&self) -> Option<&'static str> {
        None
    }
    /// The URL of a database, the default one if none is named. The account is as it stands in a
    /// URL.
    fn url(&self, place: &Place, account: &str, database: Option<&str>) -> String;
}

/// Where a server is and how it was asked for.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) programs: PathBuf,
    pub(super) watched: Watched,
    pub(super) account: Option<Account>,
    pub(super) port: Port,
    pub(super) options: Options,
}

impl Place {
    /// Runs one of the system's programs to its end.
    pub(super) fn run(
        &self,
        doing: &'static str,
        command: &mut Command,
    ) -> Result<(), ServiceError> {
        let mut child = command.spawn().map_err(ServiceError::doing(doing))?;
        let ended = process::wait(&mut child, PATIENCE).map_err(ServiceError::doing(doing))?;
        if ended.is_some_and(|status| status.success()) {
            self.watched.forget();
            return Ok(());
        }
        let how = ended.map_or_else(|| format!("no end after {PATIENCE:?}"), process::in_words);
        Err(self.failed(doing, &how))
    }

    /// A failure, with the end of what the server has said.
    pub(super) fn failed(&self, doing: &'static str, how: &str) -> ServiceError {
        let log = std::fs::read(self.watched.log()).unwrap_or_default();
        let log = package::last_lines(&String::from_utf8_lossy(&log));
        let service = self.options.system.name();
        ServiceError::Failed { service, doing, why: format!("{how}\n{log}") }
    }
}

/// How a server is to be.
#[derive(Debug, Clone)]
pub struct Options {
    system: &'static dyn System,
    version: Option<u32>,
    pub(super) tls: bool,
    pub(super) password: Option<String>,
    pub(super) lines: Vec<String>,
}

impl Options {
    pub(super) fn of(system: &'static dyn System) -> Self {
        Self { system, version: None, tls: false, password: None, lines: Vec::new() }
    }

    /// This major version, where the system comes in several: PostgreSQL 15 to 18. By default the
    /// machine's newest.
    #[must_use]
    pub fn version(mut self, major: u32) -> Self {
        self.version = Some(major);
        self
    }

    /// TLS with a certificate for `localhost` and 127.0.0.1, signed by an authority of its own
    /// ([`Server::authority`]). Connections without TLS are refused.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// The password of the user in [`Server::url`], which everybody else then needs too.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// A further line of the server's configuration; it wins over what is there.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Installs or fetches what such a server needs, unless it is here, without starting one.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`].
    pub fn fetch(&self) -> Result<(), ServiceError> {
        self.system.programs(self.version).map(drop)
    }

    /// Starts such a server with an empty database.
    ///
    /// # Errors
    /// [`ServiceError::Unavailable`] where this machine cannot have it, so that a test may be
    /// skipped ([`needed`](super::needed)); any other is a defect.
    pub fn start(self) -> Result<Server, ServiceError> {
        let system = self.system;
        let programs = system.programs(self.version)?;
        let account = system.account();
        let port = Port::reserve()?;
        let watched = Watched::folder(system.name(), system.ending(), account)?;
        if self.tls {
            authority::write(&watched.folder, account)?;
        }
        let place = Place { programs, watched, account, port, options: self };
        system.initialise(&place)?;
        let mut server = Server { running: None, place, databases: AtomicU32::new(0) };
        server.start_again()?;
        Ok(server)
    }
}

/// A server that runs, or ran and may be started again. Dropped, it is gone with its data.
#[derive(Debug)]
pub struct Server {
    running: Option<Child>,
    place: Place,
    databases: AtomicU32,
}

impl Server {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.place.port.number).into()
    }

    /// The URL of its default database, for a user who may do everything.
    pub fn url(&self) -> String {
        self.system().url(&self.place, &self.account(), None)
    }

    /// The same for another user and password, whether there is such a user or not.
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.system().url(&self.place, &account(user, Some(password)), None)
    }

    /// Makes a new empty database and returns its URL.
    ///
    /// # Errors
    /// What the server says, as when it is stopped.
    pub fn database(&self) -> Result<String, ServiceError> {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        self.administer(&format!("CREATE DATABASE {name}"))?;
        Ok(self.system().url(&self.place, &self.account(), Some(&name)))
    }

    /// Runs a statement as the administrator, by a way of its own: whatever the passwords, TLS,
    /// or a proxy in front.
    ///
    /// # Errors
    /// What the server says.
    pub fn administer(&self, statement: &str) -> Result<(), ServiceError> {
        let service = self.system().name();
        let failed = |why| ServiceError::Failed { service, doing: "a statement", why };
        self.system()
            .administer(&self.place, statement)
            .map_err(|why| failed(format!("{statement}: {why}")))
    }

    /// The certificate of the authority that signed the server's, if it was started with TLS.
    pub fn authority(&self) -> Option<PathBuf> {
        self.place.options.tls.then(|| self.place.watched.folder.join(authority::AUTHORITY))
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Child::id)
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        let log = std::fs::read(self.place.watched.log()).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Shuts it down cleanly, ending its clients' sessions. The data stays.
    ///
    /// # Errors
    /// When it does not end; it has then been killed.
    pub fn stop(&mut self) -> Result<(), ServiceError> {
        let Some(mut child) = self.running.take() else { return Ok(()) };
        process::signal(&[child.id()], self.system().stopping())?;
        process::signal(&process::family(child.id()), Signal::CONT)?;
        let stopping = "to shut down";
        let ended = process::wait(&mut child, PATIENCE).map_err(ServiceError::doing(stopping))?;
        let failed = match ended {
            Some(status) if status.success() => None,
            Some(status) => Some(self.place.failed(stopping, &process::in_words(status))),
            None => {
                strike(&mut child)?;
                Some(self.place.failed(stopping, &format!("killed after {PATIENCE:?}")))
            }
        };
        self.place.watched.forget();
        failed.map_or(Ok(()), Err)
    }

    /// Kills it with all its processes, by SIGKILL. When this returns they are gone; the data is
    /// as they left it.
    ///
    /// # Errors
    /// [`ServiceError::System`].
    pub fn kill(&mut self) -> Result<(), ServiceError> {
        let Some(mut child) = self.running.take() else { return Ok(()) };
        strike(&mut child)?;
        self.place.watched.forget();
        Ok(())
    }

    /// Starts it again, on the same port and data. Nothing happens if it runs.
    ///
    /// # Errors
    /// [`ServiceError::Failed`], with the end of its log.
    pub fn start_again(&mut self) -> Result<(), ServiceError> {
        if self.running.is_some() {
            return Ok(());
        }
        let starting = "to start";
        let mut command = self.system().serve(&self.place)?;
        let mut child = command.spawn().map_err(ServiceError::doing(starting))?;
        let began = Instant::now();
        while !self.system().is_ready(&self.place, child.id()) {
            let ended = child.try_wait().map_err(ServiceError::doing(starting))?;
            // What a killed server has left, such as shared memory, goes a moment later.
            if ended.is_some() && began.elapsed() < SETTLING {
                thread::sleep(LOOK);
                child = command.spawn().map_err(ServiceError::doing(starting))?;
                continue;
            }
            if let Some(status) = ended {
                self.place.watched.forget();
                return Err(self.place.failed(starting, &process::in_words(status)));
            }
            if began.elapsed() > PATIENCE {
                strike(&mut child)?;
                self.place.watched.forget();
                return Err(self.place.failed(starting, &format!("no answer in {PATIENCE:?}")));
            }
            thread::sleep(LOOK);
        }
        self.running = Some(child);
        Ok(())
    }

    /// Makes it hang with all its processes: SIGSTOP. Connections stay open and nobody answers.
    ///
    /// # Errors
    /// [`ServiceError::System`].
    pub fn freeze(&self) -> Result<(), ServiceError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        // The first one first: it then has no more children.
        process::signal(&[pid], Signal::STOP)?;
        process::signal(&process::family(pid), Signal::STOP)
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    ///
    /// # Errors
    /// [`ServiceError::System`].
    pub fn thaw(&self) -> Result<(), ServiceError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        process::signal(&process::family(pid), Signal::CONT)
    }

    fn system(&self) -> &'static dyn System {
        self.place.options.system
    }

    fn account(&self) -> String {
        let password = self.place.options.password.as_deref();
        account(self.system().user(), password.or(self.system().default_password()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By SIGKILL, although the watching shell would do it more kindly: nobody will read the
        // data again, and a test that is over should not wait.
        let _ = self.kill();
    }
}

/// Kills a server and its processes and waits until they are gone.
fn strike(child: &mut Child) -> Result<(), ServiceError> {
    // Stopped first, so that it has no more children than those that are counted.
    process::signal(&[child.id()], Signal::STOP)?;
    let family = process::family(child.id());
    process::signal(&family, Signal::KILL)?;
    child.wait().map_err(ServiceError::doing("waiting for a killed server"))?;
    if process::wait_for_strangers(&family[1..], PATIENCE) {
        return Ok(());
    }
    let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
    Err(ServiceError::System { what: "waiting for the children of a killed server".into(), error })
}

/// `user:password` as it stands in a URL.
fn account(user: &str, password: Option<&str>) -> String {
    let encode = |text| utf8_percent_encode(text, NON_ALPHANUMERIC);
    let password = password.map(|password| format!(":{}", encode(password)));
    format!("{}{}", encode(user), password.unwrap_or_default())
}
