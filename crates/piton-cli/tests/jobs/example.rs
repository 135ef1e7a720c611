//! The example in `examples/crm`, as a reader would try it: killed, and run again.

use std::path::Path;

use piton_testkit::{Dice, program::PATIENCE};

use crate::place::{Place, count};

#[test]
fn the_migration_of_the_example_survives_kills() {
    let mut dice = Dice::new();
    let place = Place::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/crm");
    for name in ["old.yaml", "migrate.yaml"] {
        std::fs::copy(example.join(name), place.path(name)).unwrap();
    }
    place.ends_with(0, &["run", "old.yaml"]);
    place.ends_with(0, &["plan", "migrate.yaml"]);
    assert!(!place.path("new.db").exists(), "a plan creates nothing");
    let run = &["run", "migrate.yaml"];
    let mut kills = 0;
    for _ in 0..3 {
        let rows = |table: &str| {
            let rows = format!("SELECT count(*) FROM {table}");
            place.database("new.db").query_row(&rows, [], |row| row.get::<_, i64>(0)).unwrap_or(0)
        };
        let more = dice.between(0, 3000) as i64;
        let all = || rows("client") + rows("bill") + rows("bill_line");
        let before = all();
        let mut running = place.program.start(run).unwrap();
        // It may be done before it is killed.
        let is_at_work = running.until("progress", PATIENCE, |_| all() > before + more).is_ok();
        if !is_at_work || running.kill().is_err() {
            break;
        }
        kills += 1;
        place.ends_with(0, &["plan", "migrate.yaml"]);
    }
    assert!(kills > 0, "it was never killed");
    place.ends_with(0, run);
    place.all_done("crm");
    let new = place.database("new.db");
    assert_eq!(count(&new, "SELECT count(*) FROM pragma_foreign_key_check"), 0);
    assert_eq!(count(&new, "SELECT count(*) FROM report"), 1);
    let old = place.database("old.db");
    for (report, table) in [("clients", "customer"), ("bills", "invoice"), ("lines", "line_item")] {
        let rows = count(&old, &format!("SELECT count(*) FROM {table}"));
        assert_eq!(count(&new, &format!("SELECT {report} FROM report")), rows);
    }
    let cents = count(&old, "SELECT sum(cents) FROM line_item");
    assert_eq!(count(&new, "SELECT cents FROM report"), cents);
}
