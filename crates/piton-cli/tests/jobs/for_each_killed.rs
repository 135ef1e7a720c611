//! Steps that are done for each parent, killed: what is passed is not done again, and what was at
//! work is recovered.

use std::collections::{BTreeMap, BTreeSet};

use crate::place::{Place, RUN, count};

const PARENTS: usize = 24;

/// A command for each customer, which logs how it was started. `more`: keys of the `for_each`.
fn commands(more: &str, script: &str) -> Place {
    let place = Place::new();
    let crm = place.database("crm.db");
    crm.execute_batch("CREATE TABLE customer (id INTEGER PRIMARY KEY)").unwrap();
    for id in 1..=PARENTS {
        crm.execute("INSERT INTO customer VALUES (?1)", [id]).unwrap();
    }
    place.job(&format!(
        "job: each
steps:
  - step: customers
    for_each: {{source: {{sql: {{url: 'sqlite:crm.db', table: customer}}}}, as: customer}}
{more}    steps:
      - step: tell
        run: [sh, -c, '{script} echo \"did $PITON_CUSTOMER_ID $PITON_ATTEMPT $PITON_RECOVERING\" >> log']
        on_recover: {{run: [sh, -c, 'echo \"recovered $PITON_CUSTOMER_ID $PITON_ATTEMPT 1\" >> log']}}
"
    ));
    place
}

/// The attempts of each customer that were logged under a word, in their order.
fn attempts(place: &Place, of: &str) -> BTreeMap<usize, Vec<u32>> {
    let mut found: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    for line in place.lines("log") {
        let words: Vec<&str> = line.split(' ').collect();
        let [word, id, attempt, recovering] = words[..] else { panic!("{line}") };
        if word == of {
            let attempt: u32 = attempt.parse().unwrap();
            assert_eq!(recovering == "1", attempt > 1, "{line}");
            found.entry(id.parse().unwrap()).or_default().push(attempt);
        }
    }
    found
}

/// What was passed before a SIGKILL is not done again; what was at work is told so, and recovered
/// once in each attempt.
#[test]
fn killed_at_any_moment_only_what_was_at_work_is_done_again() {
    for (more, beside) in [("", 1), ("    concurrency: 3\n", 3)] {
        let place = commands(more, "");
        let mut kills = 0;
        for (point, hit) in [
            ("step.begin", 5),
            ("step.body", 4),
            ("step.done", 5),
            ("save.before", 6),
            ("save.after", 4),
            ("step.begin", 3),
        ] {
            place.program.strike(RUN, point, hit).unwrap();
            kills += 1;
        }
        place.run(0);
        let (did, recovered) = (attempts(&place, "did"), attempts(&place, "recovered"));
        assert_eq!(did.keys().copied().collect::<Vec<_>>(), (1..=PARENTS).collect::<Vec<_>>());
        let repeated: usize = did.values().map(|attempts| attempts.len() - 1).sum();
        assert!(repeated <= kills * beside, "{repeated} are done again: {did:?}");
        for (of, logged) in did.iter().chain(&recovered) {
            let distinct: BTreeSet<u32> = logged.iter().copied().collect();
            assert_eq!(distinct.len(), logged.len(), "customer {of}: {logged:?}");
        }
        for (of, attempts) in &did {
            let recovering: Vec<&u32> = attempts.iter().filter(|attempt| **attempt > 1).collect();
            let recovered = recovered.get(of).into_iter().flatten();
            let missing: Vec<_> =
                recovering.into_iter().filter(|a| !recovered.clone().any(|b| b == *a)).collect();
            assert_eq!(missing, [] as [&u32; 0], "customer {of} is recovered first");
        }
    }
}

/// One of several parents that are at work beside each other fails: the next run recovers it, as
/// many as may be at work then, and does those beside it no more.
#[test]
fn one_that_fails_beside_others_is_recovered_alone() {
    for then in ["    concurrency: 3\n", "", "    concurrency: 2\n"] {
        let fails = "if [ $PITON_CUSTOMER_ID = 5 ] && [ ! -e mended ]; then sleep 0.2; exit 1; fi;";
        let place = commands("    concurrency: 3\n", fails);
        let failed = place.run(1);
        assert!(failed.stderr.contains("customer@5"), "{failed}");
        std::fs::write(place.path("mended"), "").unwrap();
        let text = std::fs::read_to_string(place.path("job.yaml")).unwrap();
        place.job(&text.replace("    concurrency: 3\n", then));
        place.run(0);
        let once = |(of, attempts): (&usize, &Vec<u32>)| *attempts == [1 + u32::from(*of == 5)];
        let did = attempts(&place, "did");
        assert!(did.len() == PARENTS && did.iter().all(once), "{did:?}");
        assert_eq!(attempts(&place, "recovered"), BTreeMap::from([(5, vec![2])]));
    }
}

/// Between crash and restart parents come in before the one that was at work, which is recovered
/// first all the same, or is gone and leaves nothing behind.
#[test]
fn parents_come_and_go_before_the_one_that_was_at_work() {
    for (gone, attempts_of_it) in [(false, Some(vec![2])), (true, None)] {
        let place = commands("", "");
        let crm = place.database("crm.db");
        crm.execute_batch("UPDATE customer SET id = id * 10 + 1000").unwrap();
        place.program.strike(RUN, "step.begin", 5).unwrap();
        crm.execute_batch("INSERT INTO customer VALUES (1035), (1045)").unwrap();
        if gone {
            crm.execute_batch("DELETE FROM customer WHERE id = 1040").unwrap();
        }
        place.run(0);
        let mut did = attempts(&place, "did");
        assert_eq!(did.remove(&1040), attempts_of_it);
        assert_eq!(did.len(), PARENTS + 1);
        assert!(did.values().all(|attempts| *attempts == [1]), "{did:?}");
        let kept = place.database("piton.db");
        let at_work = "SELECT count(*) FROM checkpoints WHERE json_extract(position, '$.command')";
        assert_eq!(count(&kept, at_work), 0);
        let slots = "SELECT count(*) FROM checkpoints WHERE partition LIKE '%#%'";
        assert_eq!(count(&kept, slots), 0, "one at a time has one slot");
    }
}

/// The same with records of records, where both have several at work at once.
#[test]
fn killed_within_records_of_records() {
    let place = Place::new();
    let crm = place.database("crm.db");
    crm.execute_batch(
        "CREATE TABLE customer (id INTEGER PRIMARY KEY);
         CREATE TABLE invoice (id INTEGER PRIMARY KEY, customer INTEGER);
         INSERT INTO customer VALUES (1), (2), (3), (4), (5)",
    )
    .unwrap();
    for id in 1..=PARENTS {
        crm.execute("INSERT INTO invoice VALUES (?1, ?1 % 5 + 1)", [id]).unwrap();
    }
    place.job(
        "job: each
steps:
  - step: customers
    for_each: {source: {sql: {url: 'sqlite:crm.db', table: customer}}, as: customer}
    concurrency: 2
    steps:
      - step: invoices
        for_each: {source: {sql: {url: 'sqlite:crm.db', query: 'SELECT id FROM invoice WHERE customer = ${customer.id}', key: [id]}}, as: invoice}
        concurrency: 2
        steps:
          - step: tell
            run: [sh, -c, 'echo \"did $PITON_INVOICE_ID $PITON_ATTEMPT $PITON_RECOVERING\" >> log']
",
    );
    let points = [("step.begin", 6), ("step.body", 5), ("step.done", 4), ("save.after", 7)];
    for (point, hit) in points {
        place.program.strike(RUN, point, hit).unwrap();
    }
    place.run(0);
    let did = attempts(&place, "did");
    assert_eq!(did.keys().copied().collect::<Vec<_>>(), (1..=PARENTS).collect::<Vec<_>>());
    let repeated: usize = did.values().map(|attempts| attempts.len() - 1).sum();
    assert!(repeated <= points.len() * 4, "{did:?}");
    let distinct = |attempts: &Vec<u32>| attempts.iter().collect::<BTreeSet<_>>().len();
    assert!(did.values().all(|attempts| distinct(attempts) == attempts.len()), "{did:?}");
}
