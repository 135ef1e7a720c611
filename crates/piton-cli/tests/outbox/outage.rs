//! The server goes, or the connection to it, in the middle of a batch: the run goes on by itself.

use std::{thread, time::Duration};

use piton_testkit::{
    Dice,
    program::PATIENCE,
    service::{self, Cut, Postgres},
};

use crate::place::{Place, Target, same, stop, with_appenders};

/// Invariants 5 and 7.
#[test]
fn a_server_that_goes_and_comes_back_ten_times_is_waited_for() {
    let options = || Postgres::options().line("fsync = off").line("restart_after_crash = off");
    let (Some(mut server), Some(other)) =
        (service::needed(options().start()), service::needed(options().start()))
    else {
        return;
    };
    let place = Place::on(&server);
    let (beside, elsewhere) = (Target::at(&place.url), Target::at(&other.database().unwrap()));
    let source =
        format!("{{postgres_outbox: {{url: \"{}\", batch: 500}}, rate: 4000/s}}", place.url);
    let sinks = format!(
        "sinks:\n  beside: {}\n  elsewhere: {}\ncheckpoint: {{every: 100ms}}",
        beside.sink(),
        elsewhere.sink()
    );
    place.write("p.yaml", &source, &sinks);
    // More than is relayed meanwhile, so that each stop hits a batch.
    place.fill(40_000);
    let mut dice = Dice::new();
    let mut running = place.start();
    with_appenders(&place.url, || {
        for n in 1..=10 {
            let (begin, more) = (beside.rows(), dice.between(1, 1500));
            running
                .until("progress", PATIENCE, |_| beside.rows() >= begin + more)
                .unwrap_or_else(|error| panic!("stop {n}, {more} more: {error}"));
            if n % 2 == 0 {
                server.kill().unwrap();
            } else {
                server.stop().unwrap();
            }
            thread::sleep(Duration::from_millis(dice.between(0, 300)));
            server.start_again().unwrap();
        }
    });
    let outbox = place.outbox();
    let all = outbox.len() as u64;
    assert!(beside.rows() < all, "the last stop came too late");
    running
        .until("the rest", PATIENCE, |_| beside.rows() >= all && elsewhere.rows() >= all)
        .unwrap_or_else(|error| panic!("{error}"));
    stop(running);
    same("beside", &beside.messages(), &outbox);
    same("elsewhere", &elsewhere.messages(), &outbox);
}

/// Invariants 5 and 7, with COMMITs that nobody hears the answer of.
#[test]
fn a_connection_cut_at_random_bytes_between_outbox_and_table_changes_nothing() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let place = Place::on(server);
    let target = Target::at(&place.url);
    let cut = Cut::before(server.address()).unwrap();
    let url = cut.url(&place.url);
    let sinks = format!("sinks:\n  out: {}\ncheckpoint: {{records: 200}}", Target::sink_at(&url));
    place.configure_at(&url, ", batch: 100", &sinks);
    place.fill(3000);
    let mut dice = Dice::new();
    let mut running = place.start();
    with_appenders(&place.url, || {
        for n in 1..=12 {
            let begin = target.rows();
            running
                .until("progress", PATIENCE, |_| target.rows() > begin)
                .unwrap_or_else(|error| panic!("cut {n}: {error}"));
            match n % 4 {
                0 => cut.lose_request("COMMIT"),
                1 => cut.lose_answer("COMMIT", "COMMIT"),
                2 => cut.after_answered(dice.between(1, 40_000)),
                _ => cut.after_sent(dice.between(1, 20_000)),
            }
            running
                .until("the cut", PATIENCE, |_| cut.cuts() >= n)
                .unwrap_or_else(|error| panic!("cut {n}: {error}"));
        }
    });
    let outbox = place.outbox();
    running
        .until("all messages", PATIENCE, |_| target.rows() >= outbox.len() as u64)
        .unwrap_or_else(|error| panic!("{error}"));
    stop(running);
    same("target", &target.messages(), &outbox);
}
