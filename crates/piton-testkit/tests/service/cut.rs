//! The ambiguous commit, made certain: the proxy decides which of the two it was.

use ::postgres::{Client, NoTls};
use piton_testkit::service::{self, Cut, Postgres};

/// Inserts a row in a transaction whose COMMIT is lost in some way. Returns whether the client
/// was told of it, and whether the row is there.
fn commit(lose: impl FnOnce(&Cut)) -> Option<(bool, bool)> {
    let server = service::needed(Postgres::shared())?;
    let url = server.database().unwrap();
    let mut direct = Client::connect(&url, NoTls).unwrap();
    direct.batch_execute("CREATE TABLE t (n bigint)").unwrap();
    let cut = Cut::before(server.address()).unwrap();
    let mut client = Client::connect(&cut.url(&url), NoTls).unwrap();
    lose(&cut);
    let mut transaction = client.transaction().unwrap();
    transaction.execute("INSERT INTO t VALUES (1)", &[]).unwrap();
    let told = transaction.commit().is_ok();
    assert_eq!((cut.cuts(), client.is_closed()), (u64::from(!told), !told));
    let rows = direct.query("SELECT n FROM t", &[]).unwrap().len();
    Some((told, rows == 1))
}

#[test]
fn a_commit_that_is_not_heard_of_was_made_or_was_not() {
    let Some(passed) = commit(|_| {}) else { return };
    assert_eq!(passed, (true, true));
    assert_eq!(commit(|cut| cut.lose_request("COMMIT")), Some((false, false)));
    assert_eq!(commit(|cut| cut.lose_answer("COMMIT")), Some((false, true)));
}
