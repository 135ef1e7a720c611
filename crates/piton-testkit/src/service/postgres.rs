//! PostgreSQL: the machine's newest, or a chosen major version from Maven Central.
//!
//! The version from Maven is the one that other projects embed in their tests: a compressed folder
//! with `initdb`, `postgres` and the extensions that come with them, which runs where it was
//! unpacked. Nothing is installed.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use ::postgres::{Config, NoTls};
use rustix::process::Signal;

use super::{
    Options, Server, ServiceError, authority, package,
    process::Account,
    server::{Place, System},
};

const NAME: &str = "PostgreSQL";
const SUPERUSER: &str = "postgres";
/// Where Debian keeps each major version's programs.
const DEBIAN: &str = "/usr/lib/postgresql";
const MAVEN: &str = "https://repo1.maven.org/maven2/io/zonky/test/postgres";

/// What Maven is asked for: the major version, the whole version, and the SHA-256 of its file for
/// Intel's and for Arm's processors.
const MAVEN_VERSIONS: &[(u32, &str, &str, &str)] = &[
    (
        15,
        "15.19.0",
        "95f0b66fe72d4ca66c815773c44cb1196ea38552463e89a35f18114b3ed1565f",
        "95baf4bd4af31b91b3050118df59388ed0064756b556b850669e0300aa7b9911",
    ),
    (
        16,
        "16.15.0",
        "653abc065c682b85d3da50168fb95dc524bd85426cdec9ce3695a550ef431df2",
        "f846a9989d686b7977d6eca9bc9d8b2b69e3f70c7eb60e032197d9c574a6136c",
    ),
    (
        17,
        "17.11.0",
        "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d",
        "8b042e0ea418b1927d95399207950da0734d27fe01e29503ade3bdc464ad4c2b",
    ),
    (
        18,
        "18.6.0",
        "008ee189eaa7ca2b58bd01dd950291e638b998392cf982297acd4779ec898ac1",
        "5f54e016723afa6213925a8acb939bac52944b1d348f65c7a20f0cd2928c31be",
    ),
];

/// Around an installation: without this, Debian makes a cluster of the system and starts it.
const NO_CLUSTER: &str = "mkdir -p /etc/postgresql-common/createcluster.d
echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/piton-tests.conf";
const NO_CLUSTER_OVER: &str = "rm -f /etc/postgresql-common/createcluster.d/piton-tests.conf";

/// A PostgreSQL server. Its default database is `postgres`, its superuser `postgres`, who needs no
/// password unless one is asked for. It is ready for logical replication and prepared
/// transactions, and as durable as a real one: `line("fsync = off")` makes it quicker.
#[derive(Debug)]
pub struct Postgres;

impl Postgres {
    /// Starts one of the machine's newest version.
    ///
    /// # Errors
    /// As [`Options::start`].
    pub fn start() -> Result<Server, ServiceError> {
        Self::options().start()
    }

    /// How one is to be.
    pub fn options() -> Options {
        Options::of(&Kind)
    }

    /// The one that the tests of this process share, started when it is first asked for. Each
    /// test takes a [`Server::database`] of its own. It does not wait for its disk (`fsync` is
    /// off), so it is not one to measure.
    ///
    /// # Errors
    /// As [`Options::start`], the same each time.
    pub fn shared() -> Result<&'static Server, &'static ServiceError> {
        static SHARED: OnceLock<Result<Server, ServiceError>> = OnceLock::new();
        SHARED.get_or_init(|| Self::options().line("fsync = off").start()).as_ref()
    }
}

#[derive(Debug)]
struct Kind;

impl System for Kind {
    fn name(&self) -> &'static str {
        NAME
    }

    fn programs(&self, version: Option<u32>) -> Result<PathBuf, ServiceError> {
        let unavailable = |why| ServiceError::Unavailable { service: NAME, why };
        let Some(major) = version else {
            return installed().map_or_else(|| install().map_err(unavailable), Ok);
        };
        let debian = Path::new(DEBIAN).join(major.to_string()).join("bin");
        if debian.join("initdb").is_file() {
            return Ok(debian);
        }
        from_maven(major)
    }

    /// It refuses to run as root.
    fn account(&self) -> Option<Account> {
        Account::is_root().then(|| Account::of(&["postgres", "nobody"])).flatten()
    }

    /// An "immediate" shutdown, which takes the shared memory along.
    fn ending(&self) -> &'static str {
        "QUIT"
    }

    /// A "fast" shutdown; with SIGTERM it would wait for its clients to go.
    fn stopping(&self) -> Signal {
        Signal::INT
    }

    fn initialise(&self, place: &Place) -> Result<(), ServiceError> {
        let folder = &place.watched.folder;
        let data = folder.join("data");
        let mut initdb = place.watched.launch(place.programs.join("initdb"))?;
        initdb.arg("-D").arg(&data).args(["-U", SUPERUSER, "-E", "UTF8", "--locale=C"]);
        initdb.args(["--auth=trust", "--no-sync", "--no-instructions"]);
        if let Some(password) = &place.options.password {
            let file = folder.join("password");
            std::fs::write(&file, password).map_err(ServiceError::at(&file))?;
            Account::give(place.account, &file)?;
            initdb.arg("--pwfile").arg(file);
        }
        place.run("to make its data", &mut initdb)?;
        append(&data.join("postgresql.conf"), &configuration(place))?;
        let access = data.join("pg_hba.conf");
        std::fs::write(&access, access_rules(&place.options)).map_err(ServiceError::at(&access))
    }

    fn serve(&self, place: &Place) -> Result<Command, ServiceError> {
        let mut command = place.watched.launch(place.programs.join("postgres"))?;
        command.arg("-D").arg(place.watched.folder.join("data"));
        Ok(command)
    }

    /// The server keeps its state in a file: what `pg_ctl` reads too.
    fn is_ready(&self, place: &Place, pid: u32) -> bool {
        let file = place.watched.folder.join("data/postmaster.pid");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        // The file of a server that was killed is still there.
        lines.first() == Some(&pid.to_string().as_str())
            && matches!(lines.get(7), Some(&("ready" | "standby")))
    }

    /// By the socket in the folder, which only its owner and root can reach.
    fn administer(&self, place: &Place, statement: &str) -> Result<(), String> {
        let mut config = Config::new();
        config.host_path(&place.watched.folder).port(place.port.number);
        config.user(SUPERUSER).dbname(SUPERUSER);
        let mut client = config.connect(NoTls).map_err(|error| described(&error))?;
        client.batch_execute(statement).map_err(|error| described(&error))
    }

    fn user(&self) -> &'static str {
        SUPERUSER
    }

    fn url(&self, place: &Place, account: &str, database: Option<&str>) -> String {
        let (port, database) = (place.port.number, database.unwrap_or(SUPERUSER));
        let tls = if place.options.tls { "?sslmode=require" } else { "" };
        format!("postgres://{account}@127.0.0.1:{port}/{database}{tls}")
    }
}

/// An error with its cause: by itself it says "db error".
fn described(error: &::postgres::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// The folder of the machine's newest version.
fn installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let versions = versions.filter_map(|entry| {
        let bin = entry.path().join("bin");
        let major: u32 = entry.file_name().to_str()?.parse().ok()?;
        bin.join("initdb").is_file().then_some((major, bin))
    });
    let newest = versions.max().map(|(_, bin)| bin);
    newest.or_else(|| {
        let bin = package::program("initdb")?.parent()?.to_owned();
        bin.join("postgres").is_file().then_some(bin)
    })
}

fn install() -> Result<PathBuf, String> {
    package::install(&["postgresql"], NO_CLUSTER, NO_CLUSTER_OVER)?;
    installed().ok_or_else(|| format!("postgresql was installed, but there is no {DEBIAN}"))
}

fn from_maven(major: u32) -> Result<PathBuf, ServiceError> {
    let unavailable = |why| ServiceError::Unavailable { service: NAME, why };
    let known = MAVEN_VERSIONS.iter().find(|(known, ..)| *known == major);
    let Some((_, version, intel, arm)) = known else {
        return Err(unavailable(format!("version {major} is none of those that can be fetched")));
    };
    let (processor, sha256) = match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => ("linux-amd64", intel),
        ("linux", "aarch64") => ("linux-arm64v8", arm),
        (os, arch) => return Err(unavailable(format!("none is known for {os} on {arch}"))),
    };
    let artifact = format!("embedded-postgres-binaries-{processor}");
    let url = format!("{MAVEN}/{artifact}/{version}/{artifact}-{version}.jar");
    let folder = package::cached(&format!("postgres-{version}"), |folder| {
        unpack(&url, sha256, folder).map_err(unavailable)
    })?;
    Ok(folder.join("bin"))
}

/// The file is a zip archive with one compressed tar archive in it.
fn unpack(url: &str, sha256: &str, folder: &Path) -> Result<(), String> {
    package::need(&[("unzip", "unzip"), ("xz", "xz-utils")])?;
    let jar = folder.join("jar");
    package::download(url, sha256, &jar)?;
    let script = "unzip -q jar '*.txz' && tar -xJ --no-same-owner -f *.txz && rm jar *.txz";
    package::run(Command::new("sh").args(["-c", script]).current_dir(folder)).map(drop)
}

fn configuration(place: &Place) -> String {
    let folder = place.watched.folder.display();
    let mut text = format!(
        "listen_addresses = '127.0.0.1'\n\
         port = {}\n\
         unix_socket_directories = '{folder}'\n\
         # In the folder, which is removed, and not in memory that outlives a killed server.\n\
         dynamic_shared_memory_type = mmap\n\
         password_encryption = 'scram-sha-256'\n\
         max_connections = 200\n\
         max_prepared_transactions = 20\n\
         wal_level = logical\n\
         max_replication_slots = 20\n\
         max_wal_senders = 20\n\
         log_line_prefix = '%m [%p] %u@%d %a '\n",
        place.port.number
    );
    if place.options.tls {
        text += &format!(
            "ssl = on\nssl_cert_file = '{folder}/{}'\nssl_key_file = '{folder}/{}'\n",
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

fn access_rules(options: &Options) -> String {
    let host = if options.tls { "hostssl" } else { "host" };
    let method = if options.password.is_some() { "scram-sha-256" } else { "trust" };
    format!(
        "local all all trust\n\
         {host} all all 127.0.0.1/32 {method}\n\
         {host} replication all 127.0.0.1/32 {method}\n"
    )
}

fn append(path: &Path, text: &str) -> Result<(), ServiceError> {
    let file = std::fs::OpenOptions::new().append(true).open(path);
    let mut file = file.map_err(ServiceError::at(path))?;
    file.write_all(text.as_bytes()).map_err(ServiceError::at(path))
}
