//! Statements of steps and of recoveries, in a server's database: each takes effect once, whatever
//! is killed.

use mysql::prelude::Queryable as _;
use piton_testkit::Dice;

use crate::place::{Place, RUN, System, each};

/// The database in which statements take effect.
pub(crate) enum Target {
    Postgres(Box<postgres::Client>),
    MySql(mysql::Conn),
}

impl Target {
    pub(crate) fn of(system: System, url: &str) -> Self {
        match system {
            System::Postgres => {
                let client = postgres::Client::connect(url, postgres::NoTls).unwrap();
                Self::Postgres(Box::new(client))
            }
            _ => Self::MySql(mysql::Conn::new(url).unwrap()),
        }
    }

    pub(crate) fn execute(&mut self, sql: &str) {
        match self {
            Self::Postgres(client) => client.batch_execute(sql).unwrap(),
            Self::MySql(conn) => conn.query_drop(sql).unwrap(),
        }
    }

    pub(crate) fn numbers(&mut self, sql: &str) -> Vec<i64> {
        match self {
            Self::Postgres(client) => {
                client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
            }
            Self::MySql(conn) => conn.query(sql).unwrap(),
        }
    }
}

fn job(target: &str) -> String {
    format!(
        "job: j
claim: {{when_held: wait, lease: 2s}}
steps:
  - step: load
    sql: {{url: '{target}', statement: 'INSERT INTO loaded (n) VALUES (1)'}}
  - step: send
    run: [sh, -c, 'echo $PITON_ATTEMPT >> log; sleep 0.02']
    on_recover: {{sql: {{url: '{target}', statement: 'INSERT INTO recovered (n) VALUES (${{step.attempt}})'}}}}
  - step: sum
    sql: {{url: '{target}', statement: 'INSERT INTO loaded (n) SELECT 10 + count(*) FROM loaded'}}
    on_complete: {{sql: {{url: '{target}', statement: 'INSERT INTO loaded (n) VALUES (100)'}}}}
"
    )
}

fn with_target(system: System, place: &Place) -> Target {
    let url = system.shared().unwrap().database().unwrap();
    let mut target = Target::of(system, &url);
    target.execute("CREATE TABLE loaded (n BIGINT)");
    target.execute("CREATE TABLE recovered (n BIGINT)");
    place.job(&job(&url));
    target
}

#[test]
fn statements_take_effect_once_whatever_is_killed() {
    let mut dice = Dice::new();
    each(|system, place| {
        let mut target = with_target(system, &place);
        let mut kills = 0;
        for point in ["step.begin", "step.body", "step.done", "step.body", "step.begin"] {
            kills += u32::from(place.program.strike(RUN, point, dice.between(1, 2)).is_ok());
        }
        assert!(kills >= 2, "{system:?}: only {kills} kills");
        place.run(0);
        let loaded = "SELECT n FROM loaded WHERE n < 100 ORDER BY n";
        assert_eq!(target.numbers(loaded), [1, 11], "{system:?}");
        // Once in each attempt that came so far.
        let completed = "SELECT n FROM loaded WHERE n = 100";
        let before = target.numbers(completed);
        assert!(!before.is_empty(), "{system:?}");
        let recovered = target.numbers("SELECT n FROM recovered ORDER BY n");
        let mut once = recovered.clone();
        once.dedup();
        assert_eq!(recovered, once, "{system:?}: once in each attempt");
        place.all_done("j");
        assert!(place.run(0).stderr.contains("had finished already"), "{system:?}");
        assert_eq!(target.numbers(loaded), [1, 11], "{system:?}");
        assert_eq!(target.numbers(completed), before, "{system:?}");
    });
}

/// What is recovered is what had begun and not finished, with the attempt as a parameter.
#[test]
fn a_killed_step_is_recovered_once() {
    each(|system, place| {
        let mut target = with_target(system, &place);
        for attempt in 1..=3 {
            // At the body of the second step, which is the first that is killed in it.
            let hit = if attempt == 1 { 2 } else { 1 };
            let struck = place.program.strike(RUN, "step.body", hit);
            struck.unwrap_or_else(|error| panic!("{system:?}: {error}: {}", place.run(0)));
        }
        place.run(0);
        assert_eq!(place.lines("log"), ["1", "2", "3", "4"], "{system:?}");
        let recovered = target.numbers("SELECT n FROM recovered ORDER BY n");
        assert_eq!(recovered, [2, 3, 4], "{system:?}");
        assert_eq!(target.numbers("SELECT n FROM loaded ORDER BY n"), [1, 11, 100], "{system:?}");
    });
}
