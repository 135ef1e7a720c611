//! What cannot be relayed is refused by name, before anything is written.

use piton_testkit::service::{self, Postgres, Server};

use crate::place::{Place, SINKS};

#[test]
fn what_cannot_work_is_named_and_nothing_is_written() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let refused = |place: &Place, code: i32, why: &str| {
        for command in ["plan", "run"] {
            let ended = place.ends_with(code, &[command, "p.yaml"]);
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(said.contains(why), "{why}: {ended}");
        }
        place.nothing_was_written();
    };
    let place = Place::bare(server.database().unwrap());
    place.configure("", SINKS);
    refused(&place, 2, "there is no postgres://");
    place.configure(
        ", delete_passed: true",
        &format!("{SINKS}\n  late: {{stdout: {{}}, required: false}}"),
    );
    refused(&place, 2, "deletes what the commit policy lets go");
    let place = Place::on(server);
    place.configure("", SINKS);
    place.sql("ALTER TABLE outbox ALTER position TYPE int");
    refused(&place, 2, "\"position\" is integer: it must be bigint");
    let place = Place::on(server);
    place.configure("", SINKS);
    place.sql(
        "INSERT INTO outbox (transaction_id, message_id, message_type, data)
         VALUES ('99999999', 'x', 'T', '1')",
    );
    refused(&place, 3, "restored from a dump");
}

#[test]
fn who_may_not_read_is_refused_and_no_password_is_told() {
    let options = Postgres::options().password("right").line("fsync = off");
    let Some(server) = service::needed(options.start()) else { return };
    let place = Place::on(&server);
    place.append(1..=3);
    place.sql("CREATE ROLE reader LOGIN PASSWORD 's3cret'");
    let (_, database) = place.url.rsplit_once('/').unwrap();
    for (user, password, why) in [
        ("reader", "wr0ng", "password authentication failed for user \"reader\""),
        ("nobody", "s3cret", "nobody"),
        ("reader", "s3cret", "GRANT SELECT ON \"outbox\" TO reader"),
    ] {
        let url = server.url_as(user, password);
        let (base, _) = url.rsplit_once('/').unwrap();
        place.configure_at(&format!("{base}/{database}"), "", SINKS);
        for command in ["plan", "run"] {
            let ended = place.ends_with(2, &[command, "p.yaml"]);
            let said = format!("{}{}", ended.stdout, ended.stderr);
            assert!(said.contains(why) && !said.contains(password), "{why}: {ended}");
        }
        place.nothing_was_written();
    }
    place.sql("GRANT SELECT ON outbox TO reader");
    place.relay_all();
    place.exactly_once_in_order();
}

#[test]
fn a_checkpoint_of_another_server_is_refused_until_an_operator_accepts_it() {
    let Some(place) = Place::new() else { return };
    let Some(other) = service::needed(Postgres::options().line("fsync = off").start()) else {
        return;
    };
    place.append(1..=3);
    place.configure("", SINKS);
    place.relay_all();
    let moved = Place::on(&other);
    // As pg_upgrade would leave it: transaction ids go on.
    let (last, ..) = place.outbox().pop().unwrap();
    let mut client = moved.client();
    while client
        .query_one("SELECT pg_current_xact_id()::text::bigint", &[])
        .unwrap()
        .get::<_, i64>(0)
        <= last
    {}
    moved.append(4..=4);
    drop(client);
    let url = renamed(&other, &moved.url, &place.url);
    place.configure_at(&url, "", SINKS);
    let ended = place.ends_with(3, &["run", "p.yaml"]);
    assert!(ended.stderr.contains("another server stored it"), "{ended}");
    assert_eq!((place.file().len(), place.rows()), (3, 3));
    let mut running = place.program.start(&["run", "p.yaml", "--accept-changes"]).unwrap();
    let patience = piton_testkit::program::PATIENCE;
    running
        .until("the fourth", patience, |_| place.file().len() == 4 && place.rows() == 4)
        .unwrap();
    running.terminate().unwrap();
    running.wait(patience).unwrap();
    // From now on it is that server's.
    let mut running = place.start();
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    crate::place::append(&mut client, "5");
    running.until("the fifth", patience, |_| place.file().len() == 5).unwrap();
}

/// Gives a database of a server the name that another one has.
fn renamed(server: &Server, url: &str, like: &str) -> String {
    let ((place, from), (_, to)) = (url.rsplit_once('/').unwrap(), like.rsplit_once('/').unwrap());
    if from != to {
        server.administer(&format!("ALTER DATABASE {from} RENAME TO {to}")).unwrap();
    }
    format!("{place}/{to}")
}

/// Its transaction ids mean nothing on the new server: what is not relayed would stay hidden, and
/// what is new be passed over. The cure is the one of the manual.
#[test]
fn a_dump_restored_elsewhere_is_refused_and_its_cure_skips_and_repeats_nothing() {
    let options = || Postgres::options().line("fsync = off").start();
    let (Some(server), Some(other)) = (service::needed(options()), service::needed(options()))
    else {
        return;
    };
    let (place, moved) = (Place::on(&server), Place::on(&other));
    place.sql(
        "DO $$ BEGIN FOR i IN 1..2000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$",
    );
    place.append(1..=3);
    place.configure("", SINKS);
    place.relay_all();
    place.append(4..=5);
    let (mut from, mut to) = (place.client(), moved.client());
    let mut dump = to.copy_in("COPY outbox FROM STDIN").unwrap();
    std::io::copy(&mut from.copy_out("COPY outbox TO STDOUT").unwrap(), &mut dump).unwrap();
    dump.finish().unwrap();
    to.batch_execute("SELECT setval('outbox_position_seq', 5)").unwrap();
    drop((from, to));
    let url = renamed(&other, &moved.url, &place.url);
    place.configure_at(&url, "", SINKS);
    for _ in 0..2 {
        let ended = place.ends_with(3, &["run", "p.yaml"]);
        assert!(ended.stderr.contains("restored from a dump"), "{ended}");
    }
    assert_eq!((place.file().len(), place.rows()), (3, 3));
    let relayed = place.status()["checkpoints"][0]["position"].clone();
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    client
        .batch_execute(&format!(
            "DELETE FROM outbox WHERE (transaction_id, position) <= ('{}', {});
             UPDATE outbox SET transaction_id = pg_current_xact_id()",
            relayed["transaction_id"].as_str().unwrap(),
            relayed["position"],
        ))
        .unwrap();
    place.ends_with(0, &["reset", "relay", "--keep", "--yes"]);
    crate::place::append(&mut client, "6");
    place.relay_until(|| place.file().len() == 6 && place.rows() == 6);
    let ids = |messages: Vec<crate::place::Message>| -> Vec<String> {
        messages.into_iter().map(|(.., id)| id).collect()
    };
    let wanted = ["1", "2", "3", "4", "5", "6"];
    assert_eq!(
        (ids(place.file()), ids(place.table())),
        (wanted.map(String::from).into(), wanted.map(String::from).into())
    );
}

#[test]
fn a_live_table_is_compared_with_the_printed_one() {
    let Some(place) = Place::new() else { return };
    let check = |code, table: &str| {
        let args = ["sql", "postgres-outbox", "--check", &place.url, "--table", table];
        place.ends_with(code, &args).stdout
    };
    assert!(check(0, "outbox").contains("it can be read"));
    place.sql("DROP INDEX outbox_order");
    let said = check(1, "public.outbox");
    assert!(said.contains("to mend: it has no index"), "{said}");
    place.ends_with(2, &["sql", "postgres-outbox", "--check", &place.url, "--table", "nowhere"]);
    place.ends_with(2, &["sql", "postgres-outbox", "--column", "payload=data"]);
    let mapped = ["sql", "postgres-outbox", "--table", "shop.events", "--column", "data=payload"];
    let printed = place.ends_with(0, &[&mapped[..], &["--trigger"]].concat()).stdout;
    place.sql(&format!("CREATE SCHEMA shop; {printed}"));
    let checked = place.ends_with(0, &[&mapped[..], &["--check", &place.url]].concat()).stdout;
    assert!(!checked.contains("no trigger"), "{checked}");
}
