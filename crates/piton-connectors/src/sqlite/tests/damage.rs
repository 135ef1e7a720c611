//! Invariant 4: damaged checkpoints are never read as "start from zero", nor as another position.

use super::*;

fn refused(result: Result<Vec<Checkpoint>, SinkError>) -> String {
    match result {
        Err(SinkError::Refused { what }) => what,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Alters something past the trigger that keeps a person from it.
fn alter(place: &Place, change: &str) {
    let sql = format!("DROP TRIGGER piton_checkpoints_updated; {change}");
    place.sql().execute_batch(&sql).unwrap();
}

#[test]
fn every_altered_column_is_found() {
    for change in [
        "UPDATE piton_checkpoints SET position = '7'",
        "UPDATE piton_checkpoints SET position = NULL",
        "UPDATE piton_checkpoints SET position = NULL, kind = NULL",
        "UPDATE piton_checkpoints SET kind = 'file'",
        "UPDATE piton_checkpoints SET records = records + 1",
        "UPDATE piton_checkpoints SET records = -1",
        "UPDATE piton_checkpoints SET records = 'many'",
        "UPDATE piton_checkpoints SET version = version + 1",
        "UPDATE piton_checkpoints SET epoch = epoch + 1",
        "UPDATE piton_checkpoints SET schema_version = 1",
        "UPDATE piton_checkpoints SET updated_at = '2001-01-01T00:00:00Z'",
        "UPDATE piton_checkpoints SET updated_at = 'yesterday'",
        "UPDATE piton_checkpoints SET sink_state = '{}'",
        "UPDATE piton_checkpoints SET checksum = checksum + 1",
        "UPDATE piton_checkpoints SET partition = 'another'",
        "UPDATE piton_checkpoints SET partition = x'ff'",
        "UPDATE piton_manifest SET rows = rows + 1",
        "UPDATE piton_manifest SET checksum = checksum + 1",
        "UPDATE piton_manifest SET epoch = epoch - 1",
        "UPDATE piton_manifest SET epoch = 'x'",
        "DELETE FROM piton_manifest",
        "DROP TABLE piton_manifest",
        "DROP TRIGGER piton_checkpoints_deleted; DELETE FROM piton_checkpoints",
        "INSERT INTO piton_checkpoints SELECT pipeline, 'new', sink, position, records, version, \
         epoch, schema_version, updated_at, kind, sink_state, checksum FROM piton_checkpoints",
        "ALTER TABLE piton_checkpoints RENAME COLUMN records TO lines",
    ] {
        let place = Place::append();
        deliver(&mut place.fenced(3), &ids(1..=2), 2).unwrap();
        alter(&place, change);
        let result = place.open(Duration::ZERO).peek("p", "s");
        assert!(result.is_err(), "peek after {change}: {result:?}");
        let result = place.open(Duration::ZERO).fence(&fence(9));
        assert!(result.is_err(), "fence after {change}: {result:?}");
        assert_eq!(place.names().len(), 2);
    }
}

#[test]
fn the_refusal_says_what_to_do_and_it_works() {
    let place = Place::upsert();
    deliver(&mut place.fenced(1), &ids(1..=2), 2).unwrap();
    alter(&place, "UPDATE piton_checkpoints SET records = 1");
    let what = refused(place.open(Duration::ZERO).fence(&fence(2)));
    assert!(what.contains("damaged") && what.contains("out.db"), "{what}");
    let statements = what.split('`').nth(1).unwrap();
    place.sql().execute_batch(statements).unwrap();
    assert_eq!(place.open(Duration::ZERO).fence(&fence(2)).unwrap()[0].position, None);
}

#[test]
fn a_person_may_delete_rows() {
    let place = Place::upsert();
    deliver(&mut place.fenced(1), &ids(1..=2), 2).unwrap();
    place.sql().execute_batch("DELETE FROM piton_checkpoints WHERE pipeline = 'p'").unwrap();
    assert!(place.open(Duration::ZERO).peek("p", "s").unwrap().is_empty());
}

#[test]
fn a_newer_format_is_refused() {
    let place = Place::upsert();
    deliver(&mut place.fenced(1), &ids(1..=2), 2).unwrap();
    place.sql().execute_batch("UPDATE piton_manifest SET format = 2").unwrap();
    let what = refused(place.open(Duration::ZERO).peek("p", "s"));
    assert!(what.contains("use a newer piton"), "{what}");
}

#[test]
fn checkpoints_that_change_under_a_running_sink_stop_it() {
    for change in [
        "UPDATE piton_checkpoints SET version = version + 5",
        "DELETE FROM piton_checkpoints",
        "DELETE FROM piton_manifest",
    ] {
        let place = Place::append();
        let mut sink = place.fenced(1);
        deliver(&mut sink, &ids(1..=1), 1).unwrap();
        alter(&place, change);
        let result = deliver(&mut sink, &ids(2..=2), 2);
        assert!(matches!(result, Err(SinkError::Refused { .. })), "{change}: {result:?}");
        assert_eq!(place.names().len(), 1, "{change}");
    }
}

/// A byte of the database file flipped: the checkpoint is the stored one, or refused.
#[test]
fn a_flipped_byte_gives_the_stored_position_or_a_refusal() {
    let place = Place::upsert();
    let stored = deliver(&mut place.fenced(1), &ids(1..=2), 2).unwrap();
    let sound = fs::read(place.path()).unwrap();
    let mut refusals = 0;
    for at in (0..sound.len()).filter(|at| *at < 200 || sound[*at] != 0) {
        let mut bytes = sound.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(place.path(), &bytes).unwrap();
        match place.open(Duration::ZERO).peek("p", "s") {
            Ok(found) => assert_eq!(found, stored, "byte {at}"),
            Err(_) => refusals += 1,
        }
    }
    assert!(refusals > 100, "only {refusals} flips were refused");
}
