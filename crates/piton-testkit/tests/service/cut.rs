//! The ambiguous commit, made certain: the proxy decides which of the two it was.

use ::postgres::{Client, NoTls};
use piton_testkit::service::{self, Cut, Postgres, Server};

/// Inserts a row in a transaction whose COMMIT is lost in some way. Returns whether the client
/// was told of it, and whether the row is there.
fn commit(server: &Server, url: &str, lose: impl FnOnce(&Cut)) -> (bool, bool) {
    let mut direct = Client::connect(url, NoTls).unwrap();
    direct.batch_execute("TRUNCATE t").unwrap();
    let cut = Cut::before(server.address()).unwrap();
    let mut client = Client::connect(&cut.url(url), NoTls).unwrap();
    lose(&cut);
    let mut transaction = client.transaction().unwrap();
    transaction.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
    let told = transaction.commit().is_ok();
    assert_eq!((cut.cuts(), client.is_closed()), (u64::from(!told), !told));
    let rows = direct.query("SELECT n FROM t", &[]).unwrap().len();
    (told, rows == 1)
}

#[test]
fn a_commit_that_is_not_heard_of_was_made_or_was_not() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let url = server.database().unwrap();
    Client::connect(&url, NoTls).unwrap().batch_execute("CREATE TABLE t (n bigint)").unwrap();
    assert_eq!(commit(server, &url, |_| {}), (true, true));
    // Not once: the client closes its statement without waiting, and the answer to that comes
    // before or after the COMMIT goes.
    for _ in 0..10 {
        let request = commit(server, &url, |cut| cut.lose_request("COMMIT"));
        assert_eq!(request, (false, false));
        let answer = commit(server, &url, |cut| cut.lose_answer("COMMIT", "COMMIT"));
        assert_eq!(answer, (false, true));
    }
}
