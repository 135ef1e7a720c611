//! MySQL, and MariaDB, which descends from it.
//!
//! MariaDB is the machine's. MySQL's own packages are in no stable Debian, so the newest is taken
//! from unstable with all its libraries, down to libc, and runs from where it was unpacked
//! ([`debian`](super::debian)). So its version moves with time, and differs from a server that is
//! installed.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use ::mysql::{Conn, OptsBuilder, prelude::Queryable};

use super::{
    Options, Server, ServiceError, authority, debian, package,
    process::Account,
    server::{Place, System},
};

const USER: &str = "piton";
const PASSWORD: &str = "piton";

/// MySQL's server and its empty data, from the root of its tree.
const MYSQLD: &str = "usr/sbin/mysqld";
const TEMPLATE: &str = "data";

const MYSQL_LINES: &str = "mysqlx = OFF
secure_file_priv = \"\"
gtid_mode = ON
enforce_gtid_consistency = ON
";
const MARIADB_LINES: &str = "binlog_format = ROW
gtid_strict_mode = ON
character_set_server = utf8mb4
";

/// What makes a server quicker that is never killed.
const NO_SYNC: [&str; 2] = ["innodb_flush_log_at_trx_commit = 2", "sync_binlog = 0"];

/// A MySQL server, version 9. [`Server::url`] names no database, and a user `piton` who may do
/// everything, with the password `piton` unless another is asked for; the password is of the kind
/// `caching_sha2_password`. It keeps a binary log by row with GTIDs.
///
/// The client in the crate `mysql` asks a server at 127.0.0.1 for its socket and goes on by that,
/// past a [`Cut`](super::Cut): its option `prefer_socket` must be off.
#[derive(Debug)]
pub struct MySql;

impl MySql {
    /// Starts one.
    ///
    /// # Errors
    /// As [`Options::start`].
    pub fn start() -> Result<Server, ServiceError> {
        Self::options().start()
    }

    /// How one is to be.
    pub fn options() -> Options {
        Options::of(&Kind::MySql)
    }

    /// The one that the tests of this process share, started when it is first asked for. Each
    /// test takes a [`Server::database`] of its own. It does not wait for its disk, so it is not
    /// one to measure.
    ///
    /// # Errors
    /// As [`Options::start`], the same each time.
    pub fn shared() -> Result<&'static Server, &'static ServiceError> {
        static SHARED: OnceLock<Result<Server, ServiceError>> = OnceLock::new();
        SHARED.get_or_init(|| quick(Self::options()).start()).as_ref()
    }
}

/// A MariaDB server. [`Server::url`] names no database, and a user `piton` who may do everything,
/// with the password `piton` unless another is asked for. It keeps a binary log by row.
#[derive(Debug)]
pub struct MariaDb;

impl MariaDb {
    /// Starts one.
    ///
    /// # Errors
    /// As [`Options::start`].
    pub fn start() -> Result<Server, ServiceError> {
        Self::options().start()
    }

    /// How one is to be.
    pub fn options() -> Options {
        Options::of(&Kind::MariaDb)
    }

    /// The one that the tests of this process share, as [`MySql::shared`].
    ///
    /// # Errors
    /// As [`Options::start`], the same each time.
    pub fn shared() -> Result<&'static Server, &'static ServiceError> {
        static SHARED: OnceLock<Result<Server, ServiceError>> = OnceLock::new();
        SHARED.get_or_init(|| quick(Self::options()).start()).as_ref()
    }
}

fn quick(options: Options) -> Options {
    NO_SYNC.iter().fold(options, |options, line| options.line(line))
}

#[derive(Debug)]
enum Kind {
    MySql,
    MariaDb,
}

impl System for Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::MySql => "MySQL",
            Self::MariaDb => "MariaDB",
        }
    }

    fn programs(&self, version: Option<u32>) -> Result<PathBuf, ServiceError> {
        let unavailable = |why| ServiceError::Unavailable { service: self.name(), why };
        if let Some(version) = version {
            return Err(unavailable(format!(
                "version {version} cannot be chosen, only the newest"
            )));
        }
        match self {
            Self::MySql => {
                debian::tree("mysql", &["mysql-server-core"], self.name(), make_template)
            }
            // Of these packages nothing is a service of the system.
            Self::MariaDb => {
                let programs = [
                    ("mariadbd", "mariadb-server-core"),
                    ("mariadb-install-db", "mariadb-server-core"),
                    ("my_print_defaults", "mariadb-client-core"),
                ];
                package::need(&programs).map_err(unavailable)?;
                Ok("/".into())
            }
        }
    }

    fn initialise(&self, place: &Place) -> Result<(), ServiceError> {
        let folder = &place.watched.folder;
        for (name, text) in [("my.cnf", self.configuration(place)), ("init.sql", users(place))] {
            let path = folder.join(name);
            std::fs::write(&path, text).map_err(ServiceError::at(&path))?;
        }
        let data = folder.join("data");
        match self {
            Self::MySql => {
                let mut copy = place.watched.launch("cp")?;
                copy.args(["-a", "--reflink=auto"]).arg(place.programs.join(TEMPLATE)).arg(data);
                place.run("to copy its data", &mut copy)
            }
            Self::MariaDb => {
                let mut command = launch(place, "mariadb-install-db")?;
                command.args(["--no-defaults", "--skip-test-db", "--skip-name-resolve"]);
                command.arg("--auth-root-authentication-method=normal").args(as_root());
                command.arg(format!("--datadir={}", data.display()));
                place.run("to make its data", &mut command)
            }
        }
    }

    fn serve(&self, place: &Place) -> Result<Command, ServiceError> {
        let mut command = match self {
            Self::MySql => {
                let [loader, arguments @ ..] = debian::command(&place.programs, MYSQLD);
                let mut command = place.watched.launch(loader)?;
                command.args(arguments);
                command
            }
            Self::MariaDb => launch(place, "mariadbd")?,
        };
        let folder = &place.watched.folder;
        command.arg(format!("--defaults-file={}", folder.join("my.cnf").display()));
        command.args(as_root());
        Ok(command)
    }

    /// A connection to the socket waits until the server is ready to talk.
    fn is_ready(&self, place: &Place, _: u32) -> bool {
        self.administer(place, "DO 1").is_ok()
    }

    /// By the socket in the folder, which only its owner and root can reach.
    fn administer(&self, place: &Place, statement: &str) -> Result<(), String> {
        let socket = place.watched.folder.join("socket").to_string_lossy().into_owned();
        let options = OptsBuilder::new().socket(Some(socket)).user(Some("root"));
        let mut connection = Conn::new(options).map_err(|error| error.to_string())?;
        connection.query_drop(statement).map_err(|error| error.to_string())
    }

    fn user(&self) -> &'static str {
        USER
    }

    fn default_password(&self) -> Option<&'static str> {
        Some(PASSWORD)
    }

    fn url(&self, place: &Place, account: &str, database: Option<&str>) -> String {
        let (port, database) = (place.port.number, database.unwrap_or_default());
        let tls = if place.options.tls { "?ssl-mode=REQUIRED" } else { "" };
        format!("mysql://{account}@127.0.0.1:{port}/{database}{tls}")
    }
}

impl Kind {
    fn configuration(&self, place: &Place) -> String {
        let folder = place.watched.folder.display();
        let mut text = format!(
            "[mysqld]\n\
             datadir = {folder}/data\n\
             socket = {folder}/socket\n\
             pid_file = {folder}/data/pid\n\
             init_file = {folder}/init.sql\n\
             bind_address = 127.0.0.1\n\
             port = {}\n\
             skip_name_resolve\n\
             server_id = 1\n\
             log_bin = binlog\n\
             binlog_row_image = FULL\n\
             binlog_row_metadata = FULL\n\
             sync_binlog = 1\n\
             innodb_flush_log_at_trx_commit = 1\n",
            place.port.number
        );
        text += match self {
            Self::MySql => MYSQL_LINES,
            Self::MariaDb => MARIADB_LINES,
        };
        if let Self::MySql = self {
            text += &format!("basedir = {}/usr\n", place.programs.display());
        }
        if place.options.tls {
            text += &format!(
                "ssl_ca = {folder}/{}\nssl_cert = {folder}/{}\nssl_key = {folder}/{}\n\
                 require_secure_transport = ON\n",
                authority::AUTHORITY,
                authority::CERTIFICATE,
                authority::KEY
            );
        }
        for line in &place.options.lines {
            text += line;
            text += "\n";
        }
        text
    }
}

fn launch(place: &Place, program: &str) -> Result<Command, ServiceError> {
    place.watched.launch(package::program(program).unwrap_or_else(|| program.into()))
}

/// Makes empty data beside the programs, once: it takes 2 seconds of a processor and more of the
/// disk, where a copy takes a moment.
fn make_template(programs: &Path) -> Result<(), String> {
    let [loader, arguments @ ..] = debian::command(programs, MYSQLD);
    let mut command = Command::new(loader);
    command.args(arguments).args(["--no-defaults", "--initialize-insecure"]).args(as_root());
    command.arg(format!("--basedir={}/usr", programs.display()));
    // The default is 12 times as much to copy.
    command.arg("--innodb-redo-log-capacity=8M");
    command.arg(format!("--datadir={}", programs.join(TEMPLATE).display()));
    package::run(&mut command)?;
    // The name of the one server, by which others know it: a copy makes one of its own.
    let name = programs.join(TEMPLATE).join("auto.cnf");
    std::fs::remove_file(&name).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(format!("{}: {error}", name.display())),
    })
}

/// Both run as root only if they are told to.
fn as_root() -> Option<&'static str> {
    Account::is_root().then_some("--user=root")
}

/// Run by the server at each start, before it listens; one statement a line. Kept out of the
/// binary log, which begins with what the test does. The administrator, who has no password, is
/// left with the socket alone.
fn users(place: &Place) -> String {
    let password = place.options.password.as_deref().unwrap_or(PASSWORD);
    let password = password.replace('\\', "\\\\").replace('\'', "''");
    format!(
        "SET NAMES utf8mb4;\n\
         SET SESSION sql_log_bin = 0;\n\
         DROP USER IF EXISTS root@'127.0.0.1', root@'::1';\n\
         CREATE USER IF NOT EXISTS {USER}@'%' IDENTIFIED BY '{password}';\n\
         GRANT ALL PRIVILEGES ON *.* TO {USER}@'%' WITH GRANT OPTION;\n"
    )
}
