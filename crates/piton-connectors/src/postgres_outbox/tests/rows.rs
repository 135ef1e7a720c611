//! What is in a message, and messages that cannot be read.

use serde_json::json;

use super::{MIB, Place, append, ids_in, line};
use crate::{
    batch::Value,
    source::{BadRecord, Read, Reader},
};

#[expect(clippy::result_large_err, reason = "both are what a reader gives")]
/// All that comes until there is nothing more, bad messages as their reasons.
fn all(reader: &mut dyn Reader, messages: usize) -> Vec<Result<serde_json::Value, BadRecord>> {
    let mut all = Vec::new();
    while all.len() < messages {
        match reader.read(1000).unwrap() {
            Read::Batch(batch) => all.extend((0..batch.rows()).map(|row| Ok(line(&batch, row)))),
            Read::Bad(bad) => all.push(Err(bad)),
            Read::Idle => {}
            Read::Finished => panic!("an outbox has no end"),
        }
    }
    all
}

#[test]
fn a_record_has_the_same_names_whatever_the_table_calls_them() {
    let Some(mut place) = Place::new() else { return };
    place.settings["table"] = json!("shop.Out\"box");
    place.settings["columns"] = json!({
        "position": "id", "transaction_id": "xid", "message_id": "Message Id",
        "message_type": "kind", "data": "payload", "scheduled": "at",
    });
    let ddl = super::ddl(&place.settings(), true);
    place.sql(&format!("CREATE SCHEMA shop; {ddl}"));
    place.sql(
        "INSERT INTO shop.\"Out\"\"box\" (\"Message Id\", kind, payload, at)
         VALUES ('m-1', 'Order', '{\"total\": 12.50, \"name\": \"Zoë\"}', '2026-01-31 23:59:59.5+01')",
    );
    let batch = &place.read(None, 1)[0];
    let record = line(batch, 0);
    let wanted = json!({
        "transaction_id": record["transaction_id"], "position": 1, "message_id": "m-1",
        "message_type": "Order", "data": {"name": "Zoë", "total": 12.50},
        "scheduled": "2026-01-31T22:59:59.5Z",
    });
    assert_eq!(record, wanted);
    let mut text = Vec::new();
    batch.write_json(0, &mut text).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("12.50"), "its digits are kept");
    assert!(batch.place(0).starts_with("table shop.Out\"box, transaction "), "{}", batch.place(0));
    assert!(batch.place(0).ends_with("position 1 (message m-1)"), "{}", batch.place(0));
}

#[test]
fn data_may_be_of_several_sorts_and_ids_of_any() {
    for (sort, written, read) in [
        ("json", "'{\"a\" : 1}'", Value::Json("{\"a\" : 1}")),
        ("text", "'plain'", Value::Text("plain")),
        ("bytea", "'\\x00ff'", Value::Bytes(&[0, 255])),
    ] {
        let Some(place) = Place::new() else { return };
        place.sql(&format!(
            "ALTER TABLE outbox ALTER data TYPE {sort} USING NULL, ALTER data DROP NOT NULL,
               ALTER message_id TYPE uuid USING message_id::uuid;
             INSERT INTO outbox (message_id, message_type, data) VALUES
               ('5f0c0d4e-7b0a-4c3b-9d57-2d3f3b8d7a11', 'T', {written}),
               ('5f0c0d4e-7b0a-4c3b-9d57-2d3f3b8d7a12', 'T', NULL)"
        ));
        let batch = &place.read(None, 2)[0];
        assert_eq!((batch.get(0, 4), batch.get(1, 4)), (read, Value::Null));
        assert_eq!(batch.id(1), "5f0c0d4e-7b0a-4c3b-9d57-2d3f3b8d7a12");
    }
}

#[test]
fn times_at_the_edges_are_told_or_named() {
    let Some(place) = Place::new() else { return };
    place.sql(
        "ALTER TABLE outbox ALTER scheduled DROP NOT NULL;
         INSERT INTO outbox (message_id, message_type, data, scheduled) VALUES
           ('1', 'T', '1', 'infinity'), ('2', 'T', '1', '-infinity'), ('3', 'T', '1', NULL),
           ('4', 'T', '1', '0001-01-01 00:00:00+00'), ('5', 'T', '1', '294276-12-31 00:00:00+00'),
           ('6', 'T', '1', '1969-12-31 23:59:59.999999+00')",
    );
    let read = all(&mut *place.reader(None), 6);
    let time = |index: usize| read[index].as_ref().map(|record| record["scheduled"].clone()).ok();
    assert_eq!(time(0), Some(json!("infinity")));
    assert_eq!(time(1), Some(json!("-infinity")));
    assert_eq!(time(2), Some(json!(null)));
    assert_eq!(time(3), Some(json!("0001-01-01T00:00:00Z")));
    assert!(read[4].as_ref().unwrap_err().reason.contains("after the year 9999"));
    assert_eq!(time(5), Some(json!("1969-12-31T23:59:59.999999Z")));
}

/// Also data that the server keeps in a 300th of its size.
#[test]
fn a_message_that_is_too_large_is_set_aside_and_the_rest_goes_on() {
    let well_packed = "SELECT to_jsonb(repeat('a', 1100000)) AS data";
    let badly_packed =
        "SELECT to_jsonb(array_agg(md5(n::text))) AS data FROM generate_series(1, 40000) n";
    for data in [well_packed, badly_packed] {
        let Some(mut place) = Place::new() else { return };
        place.record_limit = MIB;
        let mut client = place.client();
        append(&mut client, "1");
        place.sql(&format!(
            "INSERT INTO outbox (message_id, message_type, data)
             SELECT 'large', 'T', data FROM ({data}) AS large"
        ));
        append(&mut client, "3");
        let mut reader = place.reader(None);
        let read = all(&mut *reader, 3);
        let Err(bad) = &read[1] else { panic!("{read:?}") };
        assert!(bad.reason.contains("bytes, `limits: record` is 1048576"), "{}", bad.reason);
        assert_eq!((bad.id.as_str(), bad.partition.as_str()), ("large", "outbox"));
        assert!(bad.place.contains("position 2 (message large)"), "{}", bad.place);
        assert_eq!(read[0].as_ref().unwrap()["message_id"], "1");
        assert_eq!(read[2].as_ref().unwrap()["message_id"], "3");
        assert_eq!(ids_in(&place.read(Some(bad.end.clone()), 1)), ["3"]);
    }
}

/// Invariant 8: a page is bounded in bytes, and so is what a connection still has to deliver.
#[test]
fn pages_of_large_messages_are_cut_and_none_is_lost() {
    let Some(place) = Place::new() else { return };
    place.sql(
        "DO $$ BEGIN FOR i IN 1..30 LOOP
           INSERT INTO outbox (message_id, message_type, data)
           SELECT i::text, 'T', to_jsonb(string_agg(md5((i * 100000 + n)::text), ''))
           FROM generate_series(1, CASE i % 3 WHEN 0 THEN 1 ELSE 32000 END) n;
           COMMIT;
         END LOOP; END $$",
    );
    let batches = place.read(None, 30);
    assert!(batches.iter().all(|batch| batch.size() < 6 * MIB));
    assert!(batches.len() > 5, "{} batches", batches.len());
    let wanted: Vec<String> = (1..=30).map(|i| i.to_string()).collect();
    assert_eq!(ids_in(&batches), wanted);
}
