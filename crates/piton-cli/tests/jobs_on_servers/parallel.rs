//! Steps beside each other that execute statements in one database: each by a connection of its own.

use piton_testkit::{
    program::PATIENCE,
    service::{self, Cut},
};

use crate::{
    place::{Place, RUN, System, each},
    statements::Target,
};

/// Steps that each note when they begin and end, some beside each other.
fn job(system: System, target: &str, steps: u32, seconds: &str) -> String {
    let (now, sleep) = match system {
        System::Postgres => ("(extract(epoch from clock_timestamp()) * 1000)::bigint", "pg_sleep"),
        _ => ("CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)", "SLEEP"),
    };
    let mut text =
        String::from("job: j\nparallel: 2\nclaim: {when_held: wait, lease: 5s}\nsteps:\n");
    for n in 1..=steps {
        let note = format!("INSERT INTO noted (n, at_ms) VALUES ({n}, {now})");
        text.push_str(&format!(
            "  - step: s{n}\n    sql: {{url: '{target}', statements: ['{note}', 'SELECT {sleep}({seconds})', '{note}']}}\n"
        ));
    }
    text
}

fn target(system: System) -> (String, Target) {
    let url = system.shared().unwrap().database().unwrap();
    let mut target = Target::of(system, &url);
    target.execute("CREATE TABLE noted (n BIGINT, at_ms BIGINT)");
    (url, target)
}

/// Each step has noted its two moments, once.
#[track_caller]
fn each_once(target: &mut Target, steps: i64) {
    let noted = target.numbers("SELECT n FROM noted ORDER BY n");
    let wanted: Vec<i64> = (1..=steps).flat_map(|n| [n, n]).collect();
    assert_eq!(noted, wanted);
}

#[test]
fn statements_of_steps_beside_each_other_overlap_and_take_effect_once() {
    each(|system, place| {
        let (url, mut target) = target(system);
        place.job(&job(system, &url, 2, "2"));
        place.run(0);
        each_once(&mut target, 2);
        let apart = "SELECT max(began) - min(ended) FROM (SELECT min(at_ms) AS began, \
                     max(at_ms) AS ended FROM noted GROUP BY n) AS noted";
        let apart = target.numbers(apart)[0];
        assert!(apart < 0, "{system:?}: the second began {apart} ms after the first had ended");
    });
}

#[test]
fn killed_among_statements_beside_each_other_each_takes_effect_once() {
    each(|system, place| {
        let (url, mut target) = target(system);
        place.job(&job(system, &url, 8, "0.02"));
        let moments = [
            ("sink.begin", 2),
            ("sink.middle", 2),
            ("commit.before", 2),
            ("commit.after", 1),
            ("commit.after", 2),
            ("sink.after", 2),
        ];
        for (point, hit) in moments {
            let struck = place.program.strike(RUN, point, hit);
            struck.unwrap_or_else(|error| panic!("{system:?}: {error}"));
        }
        place.run(0);
        each_once(&mut target, 8);
        place.all_done("j");
    });
}

/// A job that is claimed anew, because what became of a save was not known, fences its own steps
/// that are at work: they are executed under the newer claim.
#[test]
fn a_newer_claim_of_the_same_run_fences_no_step_for_good() {
    each(|system, _| {
        let server = service::needed(system.shared()).unwrap();
        let cut = Cut::before(server.address()).unwrap();
        let plain = match system {
            System::Postgres => "?sslmode=disable",
            _ => "?ssl-mode=disabled",
        };
        let place = Place::at(format!("{}{plain}", cut.url(&server.database().unwrap())));
        let (url, mut target) = target(system);
        place.job(&job(system, &url, 8, "0.3"));
        let mut running = place.program.start(RUN).unwrap();
        let mut has_noted = |most| target.numbers("SELECT n FROM noted").len() >= most;
        running.until("its first step", PATIENCE, |_| has_noted(2)).unwrap();
        cut.lose_request("COMMIT");
        running.until("a cut", PATIENCE, |_| cut.cuts() > 0).unwrap();
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{system:?}: {ended}");
        each_once(&mut target, 8);
        place.all_done("j");
    });
}
