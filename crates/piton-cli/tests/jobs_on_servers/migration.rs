//! From SQLite to PostgreSQL: customer > invoice > line item and supplier > purchase order > line
//! item, with foreign keys and an audit trigger on each target table, killed at every fault point
//! and at random, on two machines.

use std::{cell::RefCell, thread, time::Duration};

use piton_testkit::{
    Dice,
    program::PATIENCE,
    service::{self, Postgres},
};
use postgres::{Client, NoTls};
use rusqlite::Connection;

use crate::place::{Place, RUN, each};

/// Parents, children of each, children of each of those.
const SIZE: (i64, i64, i64) = (100, 4, 6);

const TABLES: [(&str, &str); 6] = [
    ("customer", ""),
    ("invoice", "customer"),
    ("invoice_line", "invoice"),
    ("supplier", ""),
    ("purchase_order", "supplier"),
    ("order_line", "purchase_order"),
];

const AUDIT: &str = "CREATE TABLE audit (what text, id bigint);
    CREATE TABLE log (what text);
    CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit VALUES (tg_table_name || ' ' || tg_op, coalesce(new.id, old.id));
        RETURN NULL; END $$;";

/// A job and its target.
struct Migration {
    place: Place,
    url: String,
    target: RefCell<Client>,
}

impl Migration {
    fn new(place: Place) -> Option<Self> {
        let url = service::needed(Postgres::shared())?.database().unwrap();
        let mut target = Client::connect(&url, NoTls).unwrap();
        let mut source = Connection::open(place.path("crm.db")).unwrap();
        target.batch_execute(AUDIT).unwrap();
        let (a, b, c) = SIZE;
        for (n, (table, parent)) in TABLES.into_iter().enumerate() {
            let parents = if parent.is_empty() {
                String::new()
            } else {
                format!(", parent BIGINT NOT NULL REFERENCES {parent} (id)")
            };
            let sql = format!(
                "CREATE TABLE {table} (id BIGINT PRIMARY KEY, name TEXT NOT NULL{parents})"
            );
            source.execute_batch(&sql).unwrap();
            target
                .batch_execute(&format!(
                    "{sql}; CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON {table}
                    FOR EACH ROW EXECUTE FUNCTION note()"
                ))
                .unwrap();
            let (rows, parents) = [(a, 0), (a * b, a), (a * b * c, a * b)][n % 3];
            fill(&mut source, table, rows, parents);
        }
        let migration = Self { place, url, target: RefCell::new(target) };
        migration.configure("");
        Some(migration)
    }

    fn configure(&self, of_source: &str) {
        let branch = |tables: [&str; 3]| {
            let [a, b, c] = tables.map(|table| self.step(table, of_source));
            let lines = indented(&format!("steps:\n{}", indented(&c)));
            let below = indented(&format!("steps:\n{}", indented(&format!("{b}{lines}"))));
            indented(&format!("{a}{below}"))
        };
        let url = &self.url;
        self.place.job(&format!(
            "job: crm\nclaim: {{when_held: wait, lease: 2s}}\nsteps:\n{}{}  - step: sums\n    \
             after: [customer, supplier]\n    sql: {{url: '{url}', statement: \"INSERT INTO log \
             SELECT 'sum ' || count(*) FROM invoice_line\"}}\n",
            branch(["customer", "invoice", "invoice_line"]),
            branch(["supplier", "purchase_order", "order_line"]),
        ));
    }

    fn step(&self, table: &str, of_source: &str) -> String {
        let url = &self.url;
        format!(
            "- step: {table}
  source: {{sql: {{url: 'sqlite:crm.db', table: {table}, key: [id]{of_source}}}}}
  sinks: {{target: {{postgres: {{url: '{url}', table: {table}, key: [id]}}}}}}
  checkpoint: {{records: 150}}
  on_recover: {{sql: {{url: '{url}', statement: \"INSERT INTO log VALUES ('{table} ' || CAST(${{step.attempt}} AS bigint))\"}}}}
"
        )
    }

    fn count(&self, sql: &str) -> i64 {
        self.target.borrow_mut().query_one(sql, &[]).unwrap().get(0)
    }

    fn rows(&self) -> i64 {
        self.count("SELECT count(*) FROM audit")
    }

    /// The target equals the source, each row was inserted once, no trigger fired twice for one,
    /// and recoveries happened once each.
    #[track_caller]
    fn is_done(&self) {
        let source = Connection::open(self.place.path("crm.db")).unwrap();
        for (table, parent) in TABLES {
            let parent = if parent.is_empty() { "0" } else { "parent" };
            let sql = format!("SELECT id, name, {parent} FROM {table} ORDER BY id");
            let mut read = source.prepare(&sql).unwrap();
            let from: Vec<(i64, String, i64)> = read
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            let sql = format!("SELECT id, name, {parent}::bigint FROM {table} ORDER BY id");
            let to = self.target.borrow_mut().query(&sql, &[]).unwrap();
            let to: Vec<(i64, String, i64)> =
                to.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
            assert!(from == to, "{table} differs: {} rows, {} rows", from.len(), to.len());
            let audited = format!("SELECT count(*) FROM audit WHERE what = '{table} INSERT'");
            assert_eq!(self.count(&audited), from.len() as i64, "{table}: inserted once each");
        }
        let other = "SELECT count(*) FROM audit WHERE what NOT LIKE '% INSERT'";
        assert_eq!(self.count(other), 0, "no row was touched twice");
        assert_eq!(self.count("SELECT count(*) FROM log WHERE what LIKE 'sum %'"), 1);
        let twice = "SELECT count(*) - count(DISTINCT what) FROM log WHERE what NOT LIKE 'sum %'";
        assert_eq!(self.count(twice), 0, "a recovery is done once");
        self.place.all_done("crm");
    }
}

fn indented(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("  {line}\n")).collect();
    lines.concat()
}

fn fill(db: &mut Connection, table: &str, rows: i64, parents: i64) {
    let tx = db.transaction().unwrap();
    for id in 1..=rows {
        let name = format!("{table} '{id}'");
        if parents == 0 {
            tx.execute(&format!("INSERT INTO {table} VALUES (?1, ?2)"), (id, name)).unwrap();
        } else {
            let sql = format!("INSERT INTO {table} VALUES (?1, ?2, ?3)");
            tx.execute(&sql, (id, name, id % parents + 1)).unwrap();
        }
    }
    tx.commit().unwrap();
}

#[test]
fn killed_at_every_fault_point_each_row_is_there_once() {
    let mut dice = Dice::new();
    let points = [
        "step.begin",
        "step.body",
        "step.done",
        "read",
        "sink.begin",
        "sink.middle",
        "sink.after",
        "commit.before",
        "commit.after",
        "save.before",
        "save.after",
        "renew",
        "recover",
        "shutdown",
    ];
    each(|system, place| {
        let Some(migration) = Migration::new(place) else { return };
        let mut kills = 0;
        for point in points {
            // Some are not come to any more.
            let hit = dice.between(1, 3);
            kills += u32::from(migration.place.program.strike(RUN, point, hit).is_ok());
        }
        assert!(kills > 4, "{system:?}: only {kills} kills");
        migration.place.run(0);
        migration.is_done();
        let again = migration.place.run(0);
        assert!(again.stderr.contains("'crm' had finished already"), "{again}");
    });
}

#[test]
fn killed_at_random_done_steps_are_skipped_and_each_recovery_is_once() {
    let mut dice = Dice::new();
    each(|system, place| {
        let Some(migration) = Migration::new(place) else { return };
        let (mut kills, mut recovered) = (0, 0);
        while kills < 10 {
            let before = migration.rows();
            let mut running = migration.place.program.start(RUN).unwrap();
            let more = dice.between(1, 900) as i64;
            if running.until("progress", PATIENCE, |_| migration.rows() >= before + more).is_err() {
                break;
            }
            let ended = running.kill().unwrap();
            recovered += u32::from(ended.stderr.contains("had begun and not finished"));
            kills += 1;
        }
        assert!(kills > 3, "{system:?}: only {kills} kills");
        migration.place.run(0);
        assert!(recovered > 1, "{system:?}: only {recovered} recoveries");
        migration.is_done();
    });
}

/// Two machines: one works; killed, the other takes over at once.
#[test]
fn a_standby_takes_over_from_a_killed_owner() {
    each(|system, place| {
        let Some(migration) = Migration::new(place) else { return };
        migration.configure(", rate: 3000/s");
        let mut first = migration.place.program.start(RUN).unwrap();
        first.until("its first rows", PATIENCE, |_| migration.rows() > 0).unwrap();
        let mut second = migration.place.program.start(RUN).unwrap();
        second.until("it to wait", PATIENCE, |r| r.stderr().contains("held by")).unwrap();
        first.kill().unwrap();
        let ended = second.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{system:?}: {ended}");
        migration.is_done();
    });
}

/// One that slept past its lease is fenced, and nothing that it does has an effect any more.
#[test]
fn an_owner_that_slept_past_its_lease_is_fenced() {
    each(|system, place| {
        let Some(migration) = Migration::new(place) else { return };
        migration.configure(", rate: 1500/s");
        let mut first = migration.place.program.start(RUN).unwrap();
        first.until("its first rows", PATIENCE, |_| migration.rows() > 0).unwrap();
        first.freeze().unwrap();
        thread::sleep(Duration::from_millis(200));
        let before = migration.rows();
        let mut second = migration.place.program.start(RUN).unwrap();
        second.until("it to take over", PATIENCE, |_| migration.rows() > before).unwrap();
        first.thaw().unwrap();
        let fenced = first.wait(PATIENCE).unwrap();
        assert_eq!(fenced.code, Some(4), "{system:?}: {fenced}");
        let ended = second.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{system:?}: {ended}");
        migration.is_done();
    });
}
