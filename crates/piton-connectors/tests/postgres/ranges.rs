//! A table that is read in several ranges of its key at once.

use std::collections::BTreeSet;

use piton_connectors::{
    postgres::PostgresSource,
    source::{Read, Source as _, SourceError, Start},
};
use piton_core::StoredPosition;
use piton_testkit::{
    Dice,
    service::{self, Cut, Postgres},
};

use crate::{
    place::Place,
    source::{json, read_all},
};

const TABLE: &str = "\
CREATE TABLE t (a text COLLATE \"C\", b int, pad text, PRIMARY KEY (a, b));
INSERT INTO t SELECT 'k' || n % 97, n, repeat('x', 50) FROM generate_series(1, 20000) n; ANALYZE t";

/// The rest, after these positions.
fn read_on(source: &PostgresSource, starts: &[Start]) -> Vec<String> {
    let mut reader = source.reader(starts).unwrap();
    let mut all = Vec::new();
    loop {
        match reader.read(500).unwrap() {
            Read::Batch(batch) => all.extend(json(&batch)),
            Read::Finished => return all,
            other => panic!("{other:?}"),
        }
    }
}

fn begin(partitions: &[String]) -> Vec<Start> {
    let start = |name: &String| Start { partition: name.clone(), position: None };
    partitions.iter().map(start).collect()
}

/// Every row is in one range, in its order there, and has the id that it has without ranges.
#[test]
fn ranges_share_a_table_among_them() {
    let Some(place) = Place::new() else { return };
    place.run(TABLE);
    let source = place.source("table: t\npartitions: 4\nbatch: 700");
    let partitions = source.partitions().unwrap();
    assert_eq!(partitions.len(), 4, "{partitions:?}");
    let mut reader = source.reader(&begin(&partitions)).unwrap();
    let (mut rows, mut ids, mut counts) = (Vec::new(), BTreeSet::new(), [0; 4]);
    let mut turns = Vec::new();
    while let Read::Batch(batch) = reader.read(300).unwrap() {
        let range = partitions.iter().position(|name| **name == *batch.partition).unwrap();
        counts[range] += batch.rows();
        turns.push(range);
        ids.extend((0..batch.rows()).map(|row| batch.id(row)));
        rows.extend(json(&batch));
    }
    assert_eq!(turns[..5], [0, 1, 2, 3, 0], "in turn");
    assert!(counts.iter().all(|count| (3000..7000).contains(count)), "{counts:?}");
    let mut wanted = read_all(&place.source("table: t"), None, 1000);
    rows.sort();
    wanted.sort();
    assert_eq!(rows, wanted);
    assert_eq!(ids.len(), 20_000);
    assert!(ids.contains("t@k1,1"), "{:?}", ids.first());
}

/// Invariant 4: what is stored fixes the ranges. A table that has grown, or another number of
/// ranges in the configuration, changes nothing about them; what does not belong together is
/// refused.
#[test]
fn ranges_stay_as_they_were_chosen() {
    let Some(place) = Place::new() else { return };
    place.run(TABLE);
    let source = place.source("table: t\npartitions: 3\nbatch: 700");
    let chosen = source.partitions().unwrap();
    let all: BTreeSet<String> = read_on(&source, &begin(&chosen)).into_iter().collect();

    let mut reader = source.reader(&begin(&chosen)).unwrap();
    let mut starts = begin(&chosen);
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        let Read::Batch(batch) = reader.read(400).unwrap() else { panic!("it ended") };
        let start = starts.iter_mut().find(|s| *s.partition == *batch.partition).unwrap();
        start.position = Some(batch.end.clone());
        seen.extend(json(&batch));
    }
    drop(reader);
    place.run("INSERT INTO t SELECT 'zz', 20000 + n, '' FROM generate_series(1, 5000) n");
    for settings in ["table: t\npartitions: 3", "table: t\npartitions: 8", "table: t"] {
        let source = place.source(settings);
        let kept = source.partitions_after(&chosen).unwrap();
        assert_eq!(kept, chosen);
        for start in &starts {
            source.verify(start, true).unwrap();
        }
        let rest: BTreeSet<String> = read_on(&source, &starts).into_iter().collect();
        assert!(rest.is_disjoint(&seen), "{settings}: a row came twice");
        assert!(all.iter().all(|row| seen.contains(row) || rest.contains(row)), "{settings}");
        assert_eq!(rest.len() + seen.len(), 25_000, "{settings}: and those that are new");
    }
    let whole = place.source("table: t\npartitions: 4").partitions_after(&["t".to_owned()]);
    assert_eq!(whole.unwrap(), ["t"], "it was read in one go");
    for known in [&chosen[1..], &[chosen[0].clone(), "t".to_owned()]] {
        let refused = source.partitions_after(known).unwrap_err();
        assert!(matches!(refused, SourceError::Gap { .. }), "{refused}");
        assert!(source.reader(&begin(known)).is_err());
    }
    place.run("ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b)");
    let gap = source.verify(&begin(&chosen)[0], false).unwrap_err();
    assert!(matches!(gap, SourceError::Gap { .. }), "{gap}");
}

#[test]
fn all_ranges_see_one_state_of_the_database() {
    let Some(place) = Place::new() else { return };
    place.run(TABLE);
    let source = place.source("table: t\npartitions: 4\nbatch: 500");
    let mut reader = source.reader(&[]).unwrap();
    place.run("DELETE FROM t WHERE b % 2 = 0; INSERT INTO t VALUES ('', 0, ''), ('zz', 0, '')");
    let mut rows = 0;
    while let Read::Batch(batch) = reader.read(1000).unwrap() {
        rows += batch.rows();
    }
    assert_eq!(rows, 20_000);
}

/// A small, an empty and a partitioned table; keys that are long, or made for this.
#[test]
fn any_table_can_be_cut() {
    let Some(place) = Place::new() else { return };
    place.run(
        "CREATE TABLE empty (id int PRIMARY KEY);
         CREATE TABLE few (id int PRIMARY KEY); INSERT INTO few VALUES (1), (2), (3);
         CREATE TABLE long (k text PRIMARY KEY);
         INSERT INTO long SELECT n || repeat('k', 900) FROM generate_series(1, 100) n;
         CREATE TABLE odd (k text PRIMARY KEY);
         INSERT INTO odd SELECT n || E' after ['' up to [\"\\\\t' FROM generate_series(1, 100) n;
         CREATE TABLE \"Of, parts\" (at timestamptz, u uuid, PRIMARY KEY (at, u))
           PARTITION BY RANGE (at);
         CREATE TABLE a PARTITION OF \"Of, parts\" FOR VALUES FROM (MINVALUE) TO ('2020-01-01');
         CREATE TABLE b PARTITION OF \"Of, parts\" FOR VALUES FROM ('2020-01-01') TO (MAXVALUE);
         INSERT INTO \"Of, parts\" SELECT '2019-12-31'::timestamptz + n * interval '1 minute',
           md5(n::text)::uuid FROM generate_series(1, 5000) n",
    );
    for (table, rows, ranges) in
        [("empty", 0, 1), ("few", 3, 3), ("long", 100, 1), ("odd", 100, 4), ("Of, parts", 5000, 4)]
    {
        let source = place.source(&format!("table: '{table}'\npartitions: 4"));
        let partitions = source.partitions().unwrap();
        assert_eq!(partitions.len(), ranges, "{partitions:?}");
        assert!(partitions.iter().all(|name| name.len() <= 200), "{partitions:?}");
        let read: BTreeSet<String> = read_on(&source, &begin(&partitions)).into_iter().collect();
        assert_eq!(read.len(), rows, "{table}");
    }
}

#[test]
fn a_range_whose_connection_is_lost_goes_on_where_it_was() {
    let Some(place) = Place::new() else { return };
    let server = service::needed(Postgres::shared()).unwrap();
    place.run(TABLE);
    let cut = Cut::before(server.address()).unwrap();
    let through = Place { url: cut.url(&place.url) };
    let source = through.source("table: t\npartitions: 3\nbatch: 1000");
    let mut reader = source.reader(&begin(&source.partitions().unwrap())).unwrap();
    let (mut dice, mut rows) = (Dice::new(), Vec::new());
    let mut reached: Vec<(String, StoredPosition)> = Vec::new();
    let mut armed = None;
    loop {
        if cut.cuts() < 10 && armed != Some(cut.cuts()) {
            armed = Some(cut.cuts());
            cut.after_answered(dice.between(10_000, 100_000));
        }
        match reader.read(200).unwrap() {
            Read::Batch(batch) => {
                reached.push((batch.partition.to_string(), batch.end.clone()));
                rows.extend(json(&batch));
            }
            Read::Idle => {}
            Read::Finished => break,
            Read::Bad(bad) => panic!("{bad:?}"),
        }
    }
    assert!(cut.cuts() >= 3, "{} cuts", cut.cuts());
    let distinct: BTreeSet<&String> = rows.iter().collect();
    assert_eq!((rows.len(), distinct.len()), (20_000, 20_000));
    let names: BTreeSet<&String> = reached.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 3);
}
