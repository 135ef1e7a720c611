//! Outboxes that cannot be read, and say why, before anything is read.

use piton_testkit::service::{self, Postgres};
use serde_json::json;

use super::Place;
use crate::{
    postgres_outbox::{Findings, check},
    source::{Source, SourceError},
};

fn refused(place: &Place) -> String {
    match place.source().partitions() {
        Err(SourceError::Settings { what }) => what,
        other => panic!("{other:?}"),
    }
}

fn findings(place: &Place) -> Findings {
    check(&place.settings()).unwrap()
}

#[test]
fn the_printed_table_is_the_one_that_is_wanted() {
    let Some(place) = Place::new() else { return };
    let Findings { place: at, misfits, remarks } = findings(&place);
    assert!(at.starts_with("postgres://postgres@127.0.0.1:") && at.ends_with("table \"outbox\""));
    assert_eq!(misfits, Vec::<String>::new());
    assert_eq!(remarks.len(), 2, "{remarks:?}");
    assert!(remarks[0].contains("need not be unique") && remarks[1].contains("no trigger"));
    // Again, and with all that is optional.
    place.sql(&super::ddl(&place.settings(), true));
    place.sql("CREATE UNIQUE INDEX ON outbox (message_id)");
    assert_eq!(findings(&place).remarks, Vec::<String>::new());
}

/// Each misfit with what to do, which is then done.
#[test]
fn what_is_wrong_with_a_table_is_named_with_its_cure() {
    for (wrong, why) in [
        (
            "ALTER TABLE outbox ALTER position TYPE int",
            "\"position\" is integer: it must be bigint",
        ),
        // The column of every table that wraps after four thousand million transactions.
        (
            "DROP INDEX outbox_order; ALTER TABLE outbox ALTER transaction_id DROP DEFAULT,
          ALTER transaction_id TYPE xid USING transaction_id::xid",
            "\"transaction_id\" is xid: it must be xid8",
        ),
        ("ALTER TABLE outbox ALTER scheduled TYPE timestamp", "must be timestamp with time zone"),
        ("ALTER TABLE outbox ALTER data TYPE int USING 1", "\"data\" is integer"),
        ("ALTER TABLE outbox DROP data, DROP message_id", "no column \"message_id\", \"data\""),
        ("ALTER TABLE outbox ALTER message_id DROP NOT NULL", "ALTER \"message_id\" SET NOT NULL"),
        ("ALTER TABLE outbox ALTER transaction_id DROP NOT NULL", "may be null"),
        ("DROP INDEX outbox_order", "CREATE INDEX IF NOT EXISTS \"outbox_order\" ON \"outbox\""),
        (
            "DROP INDEX outbox_order; CREATE INDEX ON outbox (transaction_id, position) WHERE position > 9",
            "no index in the order",
        ),
        (
            "DROP INDEX outbox_order; CREATE INDEX ON outbox (transaction_id DESC, position)",
            "no index in the order",
        ),
        ("ALTER TABLE outbox DROP CONSTRAINT outbox_pkey", "ADD UNIQUE (\"position\")"),
        (
            "ALTER TABLE outbox DROP CONSTRAINT outbox_pkey;
          CREATE UNIQUE INDEX ON outbox (position) WHERE position > 5",
            "need not be unique",
        ),
        ("ALTER TABLE outbox RENAME TO t; CREATE VIEW outbox AS SELECT * FROM t", "not a table"),
    ] {
        let Some(place) = Place::new() else { return };
        place.source().partitions().unwrap();
        place.sql(wrong);
        let what = refused(&place);
        assert!(what.contains(why), "{wrong}: {what}");
        assert!(findings(&place).misfits.iter().any(|misfit| misfit.contains(why)));
    }
}

#[test]
fn a_unique_pair_or_a_mapped_table_is_as_good() {
    let Some(place) = Place::new() else { return };
    place.sql(
        "ALTER TABLE outbox DROP CONSTRAINT outbox_pkey; DROP INDEX outbox_order;
         CREATE UNIQUE INDEX ON outbox (transaction_id, position) INCLUDE (message_type)",
    );
    place.source().partitions().unwrap();
}

#[test]
fn a_table_or_database_that_is_not_there_is_missing() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let place = Place::bare(server.database().unwrap(), json!({}));
    match place.source().partitions() {
        Err(error @ SourceError::Missing { .. }) => {
            let what = error.to_string();
            assert!(
                what.contains("table \"outbox\"") && what.contains("piton sql postgres-outbox")
            );
        }
        other => panic!("{other:?}"),
    }
    let (base, _) = place.url.rsplit_once('/').unwrap();
    let elsewhere = Place::bare(format!("{base}/nowhere"), json!({}));
    assert!(refused(&elsewhere).contains("database"), "{}", refused(&elsewhere));
}

#[test]
fn who_may_not_read_is_told_so_and_a_wrong_password_is_not_repeated() {
    let options = Postgres::options().password("right").line("fsync = off");
    let Some(server) = service::needed(options.start()) else { return };
    let place = Place::on(&server, json!({}));
    place.sql("CREATE ROLE reader LOGIN PASSWORD 'reads'");
    let database = place.url.rsplit('/').next().unwrap().to_owned();
    let as_reader = |password: &str| {
        let url = server.url_as("reader", password);
        let (base, _) = url.rsplit_once('/').unwrap();
        Place::bare(format!("{base}/{database}"), json!({}))
    };
    let what = refused(&as_reader("wr0ng"));
    assert!(what.contains("password") && !what.contains("wr0ng"), "{what}");
    let what = refused(&as_reader("reads"));
    assert!(what.contains("GRANT SELECT ON \"outbox\" TO reader"), "{what}");
    place.sql("GRANT SELECT ON outbox TO reader");
    as_reader("reads").source().partitions().unwrap();

    // What a policy hides now would be passed over.
    place.sql("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY");
    assert!(refused(&as_reader("reads")).contains("row-level security"));
    place.sql("ALTER ROLE reader BYPASSRLS");
    as_reader("reads").source().partitions().unwrap();

    let mut deleting = as_reader("reads");
    deleting.settings["delete_passed"] = json!(true);
    assert!(refused(&deleting).contains("GRANT DELETE ON \"outbox\" TO reader"));
}

#[test]
fn what_may_be_meant_otherwise_is_remarked() {
    for (wrong, why) in [
        ("ALTER TABLE outbox ALTER transaction_id DROP DEFAULT", "pg_current_xact_id()"),
        ("ALTER TABLE outbox SET UNLOGGED", "UNLOGGED"),
        (
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off',
          current_database()); END $$",
            "`synchronous_commit` is off",
        ),
    ] {
        let Some(place) = Place::new() else { return };
        place.sql(wrong);
        place.source().partitions().unwrap();
        let remarks = findings(&place).remarks;
        assert!(remarks.iter().any(|remark| remark.contains(why)), "{remarks:?}");
    }
}
