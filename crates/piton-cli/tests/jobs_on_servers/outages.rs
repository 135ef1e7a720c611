//! The server of the store goes away while a job is at work: the job waits, and goes on by itself.

use std::{thread, time::Duration};

use piton_testkit::{
    Dice,
    program::PATIENCE,
    service::{self, Cut},
};

use crate::place::{Place, RUN, System};

const ALL: [System; 3] = [System::Postgres, System::MySql, System::MariaDb];

/// Steps that each leave a line, two at a time, and one that takes long beside them.
fn job(steps: u32) -> String {
    let mut text = String::from("job: j\nparallel: 2\nclaim: {lease: 5s}\nsteps:\n");
    text.push_str(
        "  - {step: long, run: [sh, -c, 'echo begin >> long; while [ -e long ] && [ ! -e go ]; do sleep 0.05; \
         done; echo end >> long']}\n",
    );
    for n in 1..=steps {
        text.push_str(&format!(
            "  - {{step: s{n}, run: [sh, -c, 'echo {n} $PITON_RECOVERING >> log; sleep 0.06']}}\n"
        ));
    }
    text
}

/// Each step was done once, or noticed that it had begun before.
#[track_caller]
fn each_step_once(place: &Place, steps: usize) {
    let log = place.lines("log");
    assert_eq!(log.len(), steps, "nobody died, so that nothing is done again: {log:?}");
    assert_eq!(place.lines("long"), ["begin", "end"]);
    place.all_done("j");
}

#[test]
fn a_store_that_goes_and_comes_back_is_waited_for() {
    let mut dice = Dice::new();
    for system in ALL {
        let Some(mut server) = service::needed(system.options().start()) else { return };
        let place = Place::on(&server);
        place.job(&job(40));
        let mut running = place.program.start(RUN).unwrap();
        for stop in 1..=4 {
            let before = place.lines("log").len();
            running
                .until("progress", PATIENCE, |_| place.lines("log").len() > before + 2)
                .unwrap_or_else(|error| panic!("{system:?}, stop {stop}: {error}"));
            if dice.between(0, 1) == 0 { server.kill() } else { server.stop() }.unwrap();
            thread::sleep(Duration::from_millis(dice.between(0, 500)));
            server.start_again().unwrap();
        }
        place.touch("go");
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{system:?}: {ended}");
        each_step_once(&place, 40);
    }
}

/// Invariant 7: what became of a save whose answer was lost is never guessed, and steps that are at
/// work do not notice.
#[test]
fn answers_of_the_store_that_are_lost_change_nothing() {
    let mut dice = Dice::new();
    for system in ALL {
        let Some(server) = service::needed(system.options().start()) else { return };
        let inner = server.database().unwrap();
        let cut = Cut::before(server.address()).unwrap();
        let plain =
            if system == System::Postgres { "?sslmode=disable" } else { "?ssl-mode=disabled" };
        let place = Place::at(format!("{}{plain}", cut.url(&inner)));
        place.job(&job(60));
        let mut running = place.program.start(RUN).unwrap();
        running.until("its first step", PATIENCE, |_| !place.lines("log").is_empty()).unwrap();
        for seen in 1..=6 {
            match dice.between(0, 2) {
                0 => cut.after_answered(dice.between(1, 500)),
                1 => cut.after_sent(dice.between(1, 2_000)),
                _ => cut.lose_request("COMMIT"),
            }
            if running.until("a cut", PATIENCE, |_| cut.cuts() >= seen).is_err() {
                break;
            }
        }
        place.touch("go");
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{system:?}: {ended}");
        assert!(cut.cuts() >= 3, "{system:?}: only {} cuts", cut.cuts());
        each_step_once(&place, 60);
    }
}

/// The same, with the very save of a step: whether it was done or not, the job is claimed anew, and
/// nothing is done twice.
#[test]
fn a_step_whose_save_is_in_doubt_is_neither_lost_nor_repeated() {
    for system in ALL {
        let Some(server) = service::needed(system.shared()) else { return };
        let (plain, stored) = match system {
            System::Postgres => ("?sslmode=disable", "SELECT 1"),
            _ => ("?ssl-mode=disabled", ""),
        };
        for is_done in [true, false] {
            let cut = Cut::before(server.address()).unwrap();
            let place = Place::at(format!("{}{plain}", cut.url(&server.database().unwrap())));
            place.job(&job(12));
            place.touch("go");
            if is_done {
                cut.lose_answer("s7", stored);
            } else {
                cut.lose_request("s7");
            }
            let ended = place.run(0);
            assert!(cut.cuts() > 0, "{system:?}, {is_done}: {ended}");
            each_step_once(&place, 12);
        }
    }
}
