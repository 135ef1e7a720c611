//! PostgreSQL as tests get it: started, stopped, killed, frozen, and never left behind.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ::postgres::{Client, NoTls};
use piton_testkit::{
    Program,
    program::PATIENCE,
    service::{self, Postgres, ServiceError},
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

fn connect(url: &str) -> Result<Client, ::postgres::Error> {
    Client::connect(url, NoTls)
}

fn number(client: &mut Client, query: &str) -> i64 {
    client.query_one(query, &[]).unwrap().get(0)
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "waited for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn tests_share_a_server_and_no_data() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let databases: Vec<String> = thread::scope(|scope| {
        let asked: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let again = Postgres::shared().unwrap();
                    assert_eq!(again.pid(), server.pid());
                    again.database().unwrap()
                })
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for url in &databases {
        // It would fail if the database were another test's.
        connect(url).unwrap().batch_execute("CREATE TABLE t (n bigint)").unwrap();
    }
}

#[test]
fn a_killed_server_keeps_what_was_committed_and_nothing_else() {
    let Some(mut server) = service::needed(Postgres::start()) else { return };
    let url = server.url();
    let mut client = connect(&url).unwrap();
    client.batch_execute("CREATE TABLE t (n bigint); INSERT INTO t VALUES (1)").unwrap();
    client.batch_execute("BEGIN; INSERT INTO t VALUES (2)").unwrap();
    let session = number(&mut client, "SELECT pg_backend_pid()::bigint");
    let killed = server.pid().unwrap();

    server.kill().unwrap();
    assert!(!Path::new(&format!("/proc/{killed}")).exists());
    // A session that lived on would hold the data and refuse the next start.
    let command = std::fs::read(format!("/proc/{session}/cmdline")).unwrap_or_default();
    assert!(command.is_empty(), "session {session} has survived the server");
    assert!(client.batch_execute("COMMIT").is_err());
    assert!(connect(&url).is_err() && server.pid().is_none());

    server.start_again().unwrap();
    assert_ne!(server.pid(), Some(killed));
    assert_eq!(number(&mut connect(&url).unwrap(), "SELECT sum(n)::bigint FROM t"), 1);
    assert!(server.log().contains("not properly shut down"));
}

#[test]
fn a_stopped_server_has_nothing_to_recover_and_comes_back() {
    let Some(mut server) = service::needed(Postgres::start()) else { return };
    let mut client = connect(&server.url()).unwrap();
    client.batch_execute("CREATE TABLE t AS SELECT 7::bigint AS n").unwrap();
    server.stop().unwrap();
    assert!(client.batch_execute("SELECT 1").is_err());
    server.stop().unwrap();
    for _ in 0..2 {
        server.start_again().unwrap();
    }
    assert_eq!(number(&mut connect(&server.url()).unwrap(), "SELECT n FROM t"), 7);
    assert!(!server.log().contains("not properly shut down"), "{}", server.log());
}

#[test]
fn a_frozen_server_answers_nobody_until_it_thaws() {
    let Some(server) = service::needed(Postgres::start()) else { return };
    let mut client = connect(&server.url()).unwrap();
    server.freeze().unwrap();
    let asked = thread::spawn(move || client.batch_execute("SELECT 1").unwrap());
    thread::sleep(Duration::from_millis(300));
    assert!(!asked.is_finished());
    server.thaw().unwrap();
    asked.join().unwrap();
}

#[test]
fn tls_is_demanded_and_can_be_verified() {
    let Some(server) = service::needed(Postgres::options().tls().start()) else { return };
    let plain = server.url().replace("sslmode=require", "sslmode=disable");
    assert_ne!(plain, server.url());
    let refused = connect(&plain).err().unwrap();
    let refused = refused.as_db_error().unwrap().message();
    assert!(refused.contains("no encryption"), "{refused}");

    let authority = CertificateDer::from_pem_file(server.authority().unwrap()).unwrap();
    handshake(&server, &[authority]).unwrap();
    let stranger = handshake(&server, &[]).unwrap_err().to_string();
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");
    // The way that tests make databases by does not depend on it.
    server.database().unwrap();
}

/// As the protocol has it: a request for TLS, one byte of answer, the handshake.
fn handshake(server: &service::Server, trusted: &[CertificateDer<'static>]) -> std::io::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(trusted.iter().cloned());
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = TcpStream::connect(server.address())?;
    stream.write_all(&[0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, *b"S");
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(())
}

#[test]
fn a_password_is_demanded_of_everybody() {
    let password = "p@ss/w:ö rd%";
    let started = Postgres::options().password(password).line("max_connections = 17").start();
    let Some(server) = service::needed(started) else { return };
    let mut client = connect(&server.url()).unwrap();
    let row = client.query_one("SHOW max_connections", &[]).unwrap();
    assert_eq!(row.get::<_, &str>(0), "17");
    connect(&server.database().unwrap()).unwrap();

    let wrong = connect(&server.url_as("postgres", "guess")).err().unwrap();
    assert_eq!(wrong.code().unwrap().code(), "28P01");
    server.administer("CREATE ROLE \"a b\" LOGIN PASSWORD 'c/d'").unwrap();
    connect(&server.url_as("a b", "c/d")).unwrap();
    let refused = server.administer("CREATE ROLE postgres").unwrap_err().to_string();
    assert!(refused.contains("already exists"), "{refused}");
}

#[test]
fn a_server_that_does_not_start_says_why_and_is_no_reason_to_skip() {
    if service::needed(Postgres::shared()).is_none() {
        return;
    }
    let refused = Postgres::options().line("no_such_setting = 1").start().unwrap_err();
    assert!(matches!(refused, ServiceError::Failed { .. }));
    assert!(refused.to_string().contains("no_such_setting"), "{refused}");
    let judged = thread::spawn(|| service::needed::<(), _>(Err(refused))).join();
    assert!(judged.is_err());
}

#[test]
fn a_chosen_version_is_fetched() {
    let Some(server) = service::needed(Postgres::options().version(18).start()) else { return };
    let query = "SELECT current_setting('server_version_num')::bigint / 10000";
    assert_eq!(number(&mut connect(&server.url()).unwrap(), query), 18);
    let unknown = Postgres::options().version(9).start().unwrap_err();
    assert!(matches!(unknown, ServiceError::Unavailable { .. }), "{unknown}");
}

#[test]
fn where_no_server_can_be_had_a_test_is_skipped_and_in_ci_it_fails() {
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(std::env::current_exe().unwrap(), folder.path());
    let args = ["--exact", "--nocapture", "--test-threads=2", "postgres::lack_a_server_if_asked"];
    let program = program.with("LACK_SERVER", "1");
    let skipped = program.clone().with("CI", "").run_to(0, &args).unwrap();
    let line =
        "SKIPPED postgres::lack_a_server_if_asked: PostgreSQL cannot be had here: no network\n";
    assert!(skipped.stderr.contains(line), "{skipped}");
    assert!(!skipped.stdout.contains("went on"), "{skipped}");
    for required in ["CI", "PITON_REQUIRE_SERVICES"] {
        let failed = program.clone().with("CI", "").with(required, "1").run_to(101, &args).unwrap();
        assert!(failed.stderr.contains(&format!("{required} is set")), "{failed}");
    }
}

#[test]
fn lack_a_server_if_asked() {
    if std::env::var_os("LACK_SERVER").is_none() {
        return;
    }
    let lack = ServiceError::Unavailable { service: "PostgreSQL", why: "no network".to_owned() };
    let Some(()) = service::needed(Err(lack)) else { return };
    println!("went on");
}

#[test]
fn a_dropped_server_leaves_nothing() {
    let Some(server) = service::needed(Postgres::options().tls().start()) else { return };
    let folder = server.authority().unwrap().parent().unwrap().to_owned();
    let pid = server.pid().unwrap();
    drop(server);
    assert!(!folder.exists() && !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn a_server_dies_with_its_test_however_that_ends() {
    if service::needed(Postgres::shared()).is_none() {
        return;
    }
    // This test's own binary is the program: it runs the test below, which starts a server.
    let folder = tempfile::tempdir().unwrap();
    let program = Program::new(std::env::current_exe().unwrap(), folder.path());
    for ending in ["killed", "frozen", "exit"] {
        let told = folder.path().join(ending);
        let program = program.clone().with("TELL_SERVER", &told.to_string_lossy());
        let mut running = program.start(&["postgres::start_a_server_if_asked"]).unwrap();
        running.until("a server", PATIENCE, |_| told.exists()).unwrap();
        let text = std::fs::read_to_string(&told).unwrap();
        let (pid, folder) = text.split_once(' ').unwrap();
        let (pid, folder) = (PathBuf::from(format!("/proc/{pid}/exe")), PathBuf::from(folder));
        assert!(pid.exists() && folder.exists(), "{text}");
        if ending == "exit" {
            running.wait(PATIENCE).unwrap();
        } else {
            running.kill().unwrap();
        }
        until("the server's end", || !folder.exists() && pid.read_link().is_err());
    }
}

#[test]
fn start_a_server_if_asked() {
    let Some(tell) = std::env::var_os("TELL_SERVER").map(PathBuf::from) else { return };
    let server = Box::leak(Box::new(Postgres::options().tls().start().unwrap()));
    let pid = server.pid().unwrap();
    if tell.ends_with("frozen") {
        server.freeze().unwrap();
    }
    let folder = server.authority().unwrap();
    let told = format!("{pid} {}", folder.parent().unwrap().display());
    let half = tell.with_extension("half");
    std::fs::write(&half, told).unwrap();
    std::fs::rename(half, &tell).unwrap();
    if tell.ends_with("exit") {
        std::process::exit(0);
    }
    thread::sleep(PATIENCE);
}
