//! MySQL and MariaDB as tests get them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    thread,
    time::Duration,
};

use ::mysql::{Conn, Error, Opts, OptsBuilder, TxOpts, prelude::Queryable};
use piton_testkit::service::{self, Cut, MariaDb, MySql, Options, Server, ServiceError};

use crate::handshake;

/// By TCP: of a server on the same machine this client asks for the socket, and goes on by that,
/// past any proxy.
fn connect(url: &str) -> Result<Conn, Error> {
    Conn::new(OptsBuilder::from_opts(Opts::from_url(url)?).prefer_socket(false))
}

fn numbers(url: &str, query: &str) -> Vec<i64> {
    connect(url).unwrap().query(query).unwrap()
}

fn refusal(result: Result<Conn, Error>) -> u16 {
    match result {
        Err(Error::MySqlError(error)) => error.code,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("not refused"),
    }
}

/// Stopped, killed and frozen: what was committed is there, and nothing else.
fn comes_back(options: Options) {
    let Some(mut server) = service::needed(options.start()) else { return };
    let url = server.database().unwrap();
    let mut client = connect(&url).unwrap();
    client.query_drop("CREATE TABLE t (n bigint) ENGINE = InnoDB").unwrap();
    client.query_drop("INSERT INTO t VALUES (1)").unwrap();
    client.query_drop("BEGIN").unwrap();
    client.query_drop("INSERT INTO t VALUES (2)").unwrap();

    let killed = server.pid().unwrap();
    server.kill().unwrap();
    assert!(!Path::new(&format!("/proc/{killed}")).exists());
    assert!(client.query_drop("COMMIT").is_err() && connect(&url).is_err());
    server.start_again().unwrap();
    assert_ne!(server.pid(), Some(killed));
    assert_eq!(numbers(&url, "SELECT n FROM t"), [1]);

    server.stop().unwrap();
    assert!(connect(&url).is_err() && server.pid().is_none());
    server.start_again().unwrap();
    assert_eq!(numbers(&url, "SELECT n FROM t"), [1]);

    server.freeze().unwrap();
    let asked = thread::spawn(move || numbers(&url, "SELECT n FROM t"));
    thread::sleep(Duration::from_millis(300));
    assert!(!asked.is_finished());
    server.thaw().unwrap();
    assert_eq!(asked.join().unwrap(), [1]);

    let pid = format!("/proc/{}", server.pid().unwrap());
    drop(server);
    assert!(!Path::new(&pid).exists());
}

#[test]
fn mysql_comes_back() {
    comes_back(MySql::options());
}

#[test]
fn mariadb_comes_back() {
    comes_back(MariaDb::options());
}

/// TLS, a password and a line of configuration. `insecure` is what the server says to a client
/// without TLS, whose password it does know.
fn is_as_asked(options: Options, insecure: u16) {
    let password = "p@ss/'w\\:ö";
    let options = options.tls().password(password).line("max_connections = 17");
    let Some(server) = service::needed(options.start()) else { return };
    let plain = server.url().replace("?ssl-mode=REQUIRED", "");
    assert_ne!(plain, server.url());
    assert_eq!(refusal(connect(&plain)), insecure);
    begin_tls(&server, server.authority().as_deref()).unwrap();
    let stranger = begin_tls(&server, None).unwrap_err().to_string();
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");

    server.administer("SET GLOBAL require_secure_transport = OFF").unwrap();
    assert_eq!(numbers(&plain, "SELECT @@max_connections"), [17]);
    let without = |user| server.url_as(user, "").replace("?ssl-mode=REQUIRED", "");
    assert_eq!(refusal(connect(&without("piton"))), 1045);
    // Of a user that there is not, MySQL demands proof by a method that it draws.
    assert!(connect(&without("root")).is_err());
    let twice = server.administer("CREATE USER piton").unwrap_err();
    assert!(matches!(twice, ServiceError::Failed { .. }), "{twice}");
}

#[test]
fn mysql_is_as_asked() {
    is_as_asked(MySql::options(), 3159);
}

#[test]
fn mariadb_is_as_asked() {
    is_as_asked(MariaDb::options(), 1045);
}

/// As the protocol has it: the server's greeting, a request for TLS, the handshake.
fn begin_tls(server: &Server, trusted: Option<&Path>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(server.address())?;
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let mut greeting = vec![0; usize::from(head[0]) | usize::from(head[1]) << 8];
    stream.read_exact(&mut greeting)?;
    let mut request = [0; 36];
    request[..4].copy_from_slice(&[32, 0, 0, 1]);
    // Protocol 4.1, TLS, authentication by plug-ins; packets up to 16 MiB; utf8mb4.
    request[4..8].copy_from_slice(&0x0008_8a00_u32.to_le_bytes());
    request[8..13].copy_from_slice(&[0, 0, 0, 1, 45]);
    stream.write_all(&request)?;
    handshake(&mut stream, trusted)
}

/// A commit that was made and not heard of, and one that never arrived, on the shared server.
fn loses_commits(server: &Server) {
    let url = server.database().unwrap();
    connect(&url).unwrap().query_drop("CREATE TABLE t (n bigint)").unwrap();
    for n in [1, 2, 3] {
        let cut = Cut::before(server.address()).unwrap();
        let mut client = connect(&cut.url(&url)).unwrap();
        match n {
            2 => cut.lose_request("COMMIT"),
            3 => cut.lose_answer("COMMIT", ""),
            _ => {}
        }
        let mut transaction = client.start_transaction(TxOpts::default()).unwrap();
        transaction.exec_drop("INSERT INTO t VALUES (?)", (n,)).unwrap();
        assert_eq!(transaction.commit().is_ok(), n == 1);
        assert_eq!(cut.cuts(), u64::from(n != 1));
    }
    assert_eq!(numbers(&url, "SELECT n FROM t"), [1, 3]);
}

#[test]
fn a_commit_to_mysql_is_made_or_is_not() {
    let Some(server) = service::needed(MySql::shared()) else { return };
    let version: String =
        connect(&server.url()).unwrap().query_first("SELECT version()").unwrap().unwrap();
    assert!(version.starts_with("9."), "{version}");
    loses_commits(server);
}

#[test]
fn a_commit_to_mariadb_is_made_or_is_not() {
    let Some(server) = service::needed(MariaDb::shared()) else { return };
    let version: String =
        connect(&server.url()).unwrap().query_first("SELECT version()").unwrap().unwrap();
    assert!(version.contains("MariaDB"), "{version}");
    loses_commits(server);
    let chosen = MariaDb::options().version(11).start().unwrap_err();
    assert!(matches!(chosen, ServiceError::Unavailable { .. }));
}
