//! The server dies, or the connection to it, while the program runs: it goes on by itself.

use std::{thread, time::Duration};

use piton_testkit::{
    Dice,
    program::PATIENCE,
    service::{self, Cut},
};

use crate::place::{Family, Place, RUN, Sink};

#[test]
fn a_server_that_goes_and_comes_back_ten_times_is_waited_for() {
    for family in Family::BOTH {
        let mut dice = Dice::new();
        let Some(mut server) = service::needed(family.start()) else { return };
        let place = Place::on(&server, 60_000);
        let (append, upsert) = (Sink::Append.yaml(&place.url), Sink::Upsert.yaml(&place.url));
        let sinks = format!("sinks: {{append: {{{append}}}, upsert: {{{upsert}}}}}");
        place.configure(
            ", rate: 3000/s",
            &format!("{sinks}\ncheckpoint: {{max_replay: 100ms, max_overhead: 50%}}"),
        );
        let mut running = place.program.start(RUN).unwrap();
        for stop in 1..=10 {
            let begin = place.rows_in(Sink::Append);
            let more = dice.between(1, 2_000);
            running
                .until("progress", PATIENCE, |_| place.rows_in(Sink::Append) >= begin + more)
                .unwrap_or_else(|error| panic!("{family:?}, stop {stop}: {error}"));
            if dice.between(0, 1) == 0 {
                server.kill().unwrap();
            } else {
                server.stop().unwrap();
            }
            thread::sleep(Duration::from_millis(dice.between(0, 300)));
            server.start_again().unwrap();
        }
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{family:?}: {ended}");
        place.exactly_once(Sink::Append);
        place.exactly_once(Sink::Upsert);
    }
}

#[test]
fn a_connection_cut_at_random_bytes_changes_nothing() {
    let mut dice = Dice::new();
    for (family, sink) in [
        (Family::MySql, Sink::Append),
        (Family::MySql, Sink::Upsert),
        (Family::MariaDb, Sink::Append),
        (Family::MariaDb, Sink::Upsert),
    ] {
        let Some(server) = family.shared() else { return };
        let place = Place::on(server, 60_000);
        let cut = Cut::before(server.address()).unwrap();
        // Without encryption, so that the words can be found on the way.
        let url = format!("{}?ssl-mode=disabled", cut.url(&place.url));
        let sinks = format!("sinks: {{out: {{{}}}}}", sink.yaml(&url));
        place.configure("", &format!("{sinks}\ncheckpoint: {{records: 1000}}"));
        let mut running = place.program.start(RUN).unwrap();
        running.until("its first rows", PATIENCE, |_| place.rows_in(sink) > 0).unwrap();
        for seen in 1..=12 {
            match dice.between(0, 3) {
                0 => cut.lose_request("COMMIT"),
                1 => cut.lose_answer("COMMIT", ""),
                2 => cut.after_answered(dice.between(1, 6_000)),
                _ => cut.after_sent(dice.between(1, 200_000)),
            }
            // Where the whole is through, there is nothing left to cut.
            if running.until("a cut", PATIENCE, |_| cut.cuts() >= seen).is_err() {
                break;
            }
        }
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{family:?}, {sink:?}: {ended}");
        assert!(cut.cuts() >= 6, "{family:?}, {sink:?}: only {} cuts", cut.cuts());
        place.exactly_once(sink);
    }
}
