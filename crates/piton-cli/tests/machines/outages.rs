//! The server of the store goes away while the program works: it waits, and goes on by itself.

use std::{thread, time::Duration};

use piton_testkit::{
    Dice,
    program::PATIENCE,
    service::{self, Cut},
};

use crate::place::{Place, RUN, System, each};

#[test]
fn a_store_that_goes_and_comes_back_is_waited_for() {
    let mut dice = Dice::new();
    each(|system| {
        let Some(mut server) = service::needed(system.options().start()) else { return };
        let place = Place::on(&server, 40_000);
        place.configure(&place.store, ", rate: 5000/s", "");
        let mut running = place.program.start(RUN).unwrap();
        for stop in 1..=5 {
            let before = place.written();
            running
                .until("progress", PATIENCE, |_| place.written() > before + 600)
                .unwrap_or_else(|error| panic!("{system:?}, stop {stop}: {error}"));
            if dice.between(0, 1) == 0 { server.kill() } else { server.stop() }.unwrap();
            thread::sleep(Duration::from_millis(dice.between(0, 500)));
            server.start_again().unwrap();
        }
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{system:?}: {ended}");
        place.exactly_once();
    });
}

/// Invariant 7: what became of a save whose answer was lost is never guessed.
#[test]
fn connections_to_the_store_cut_at_random_bytes_change_nothing() {
    let mut dice = Dice::new();
    each(|system| {
        let Some(server) = service::needed(system.options().start()) else { return };
        let place = Place::on(&server, 60_000);
        let cut = Cut::before(server.address()).unwrap();
        let plain =
            if system == System::Postgres { "?sslmode=disable" } else { "?ssl-mode=disabled" };
        place.configure(&format!("{}{plain}", cut.url(&place.store)), ", rate: 10000/s", "");
        let mut running = place.program.start(RUN).unwrap();
        running.until("its first rows", PATIENCE, |_| place.written() > 0).unwrap();
        for seen in 1..=8 {
            match dice.between(0, 2) {
                0 => cut.after_answered(dice.between(1, 2_000)),
                1 => cut.after_sent(dice.between(1, 6_000)),
                _ => cut.lose_request("COMMIT"),
            }
            // Where the whole is through, there is nothing left to cut.
            if running.until("a cut", PATIENCE, |_| cut.cuts() >= seen).is_err() {
                break;
            }
        }
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{system:?}: {ended}");
        assert!(cut.cuts() >= 3, "{system:?}: only {} cuts", cut.cuts());
        place.exactly_once();
    });
}
