//! What `piton` shows of processors, whose checkpoints programs keep by SQL functions.

#![cfg(all(unix, feature = "postgres"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use piton_testkit::{
    Program,
    service::{self, Postgres},
};
use postgres::{Client, NoTls};

/// The schema is the program's own words, and what is kept there is seen and steered like all
/// else.
#[test]
fn a_processor_is_printed_shown_paused_and_resumed() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let url = server.database().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let piton = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path());
    let schema = piton.run_to(0, &["sql", "postgres"]).unwrap().stdout;
    let mut session = Client::connect(&url, NoTls).unwrap();
    session.batch_execute(&schema).unwrap();
    let mut ask = |call: &str| -> Option<i64> {
        session.query_one(&format!("SELECT ({call})::bigint"), &[]).unwrap().get(0)
    };
    let save = "store_processor_checkpoint('mailer', 5012, NULL, '771')";
    assert_eq!(ask(save), Some(1));

    let status = piton.run_to(0, &["status", "--store", &url]).unwrap().stdout;
    assert!(status.contains("mailer"), "{status}");
    let one = piton.run_to(0, &["status", "mailer", "--store", &url]).unwrap().stdout;
    assert!(one.contains("5012") && one.contains("771"), "{one}");
    let json = piton.run_to(0, &["status", "--json", "--store", &url]).unwrap().stdout;
    assert!(json.contains("\"mailer\"") && json.contains("5012"), "{json}");

    let claim = "claim_processor('mailer', 'a', '30 s')";
    let epoch = ask(claim).unwrap();
    piton.run_to(0, &["pause", "mailer", "--store", &url]).unwrap();
    assert_eq!(ask(&format!("renew_processor('mailer', {epoch})::int")), Some(0), "it is told");
    assert_eq!(ask(&format!("release_processor('mailer', {epoch})::int")), Some(1));
    assert_eq!(ask(claim), None, "a new one waits");
    piton.run_to(0, &["resume", "mailer", "--store", &url]).unwrap();
    assert_eq!(ask(claim), Some(epoch + 1));

    let reset: &[&str] = &["reset", "mailer", "--yes", "--store", &url];
    let said = piton.run_to(4, reset).unwrap().stderr;
    assert!(said.contains("`piton cancel mailer` first"), "{said}");
    piton.run_to(0, &["cancel", "mailer", "--store", &url]).unwrap();
    let said = piton.run_to(4, reset).unwrap().stderr;
    assert!(said.contains("it was cancelled") && said.contains("30 s after"), "{said}");
    assert!(!said.contains("piton cancel"), "{said}");
    assert_eq!(ask(&format!("release_processor('mailer', {})::int", epoch + 1)), Some(1));
    piton.run_to(0, reset).unwrap();
}
