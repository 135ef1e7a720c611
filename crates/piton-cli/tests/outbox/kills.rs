//! Relays that are killed and cut off while eight append: invariants 1, 5 and 6.

use std::{thread, time::Duration};

use piton_testkit::{
    Dice,
    program::PATIENCE,
    service::{self, Cut, Postgres},
};

use crate::place::{Place, SINKS, Target, same, stop, with_appenders};

const KILLS: u64 = 10;

#[test]
fn ten_kills_while_eight_append_skip_and_repeat_nothing() {
    // The target beside the outbox, and one elsewhere: a sink's own transactions hold back what is
    // read from the same server.
    let options = || Postgres::options().line("fsync = off").start();
    let (Some(server), Some(other)) = (service::needed(options()), service::needed(options()))
    else {
        return;
    };
    let place = Place::on(&server);
    let (beside, elsewhere) = (Target::at(&place.url), Target::at(&other.database().unwrap()));
    place.configure(
        "",
        &format!(
            "{SINKS}\n  beside: {}\n  elsewhere: {}\ncheckpoint: {{every: 50ms}}",
            beside.sink(),
            elsewhere.sink()
        ),
    );
    place.fill(20_000);
    let mut dice = Dice::new();
    with_appenders(&place.url, || {
        for kill in 1..=KILLS {
            let begin = place.rows();
            let more = dice.between(1, 3000);
            let mut running = place.start();
            running
                .until("progress", PATIENCE, |_| place.rows() >= begin + more)
                .unwrap_or_else(|error| panic!("kill {kill}, {more} more: {error}"));
            thread::sleep(Duration::from_millis(dice.between(0, 40)));
            running.kill().unwrap_or_else(|error| panic!("kill {kill}: {error}"));
        }
    });
    let outbox = place.outbox();
    assert!(outbox.len() > 21_000, "the appenders appended {}", outbox.len());
    let all = outbox.len() as u64;
    place.relay_until(|| {
        let file = place.file().len() as u64;
        [file, place.rows(), beside.rows(), elsewhere.rows()].iter().all(|rows| *rows >= all)
    });
    place.exactly_once_in_order();
    same("beside", &beside.messages(), &outbox);
    same("elsewhere", &elsewhere.messages(), &outbox);
}

#[test]
fn a_connection_that_is_cut_at_any_byte_is_mended_by_the_run_itself() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let place = Place::on(server);
    let cut = Cut::before(server.address()).unwrap();
    place.configure_at(&cut.url(&place.url), ", batch: 100", SINKS);
    place.fill(3000);
    let mut dice = Dice::new();
    let mut running = place.start();
    with_appenders(&place.url, || {
        for n in 1..=10 {
            // What is cut is a run that works: one that only begins says so and ends.
            let begin = place.rows();
            running
                .until("progress", PATIENCE, |_| place.rows() > begin)
                .unwrap_or_else(|error| panic!("cut {n}: {error}"));
            if dice.between(0, 1) == 0 {
                cut.after_answered(dice.between(1, 60_000));
            } else {
                cut.after_sent(dice.between(1, 2_000));
            }
            running
                .until("the cut", PATIENCE, |_| cut.cuts() >= n)
                .unwrap_or_else(|error| panic!("cut {n}: {error}"));
        }
    });
    let wanted = place.outbox().len();
    let has_all = |_: &_| place.file().len() >= wanted && place.rows() >= wanted as u64;
    running.until("all messages", PATIENCE, has_all).unwrap_or_else(|error| panic!("{error}"));
    stop(running);
    place.exactly_once_in_order();
}

/// A crash at each moment of a relay, with whoever appends still at work.
#[test]
fn a_kill_at_any_fault_point_skips_and_repeats_nothing() {
    let Some(place) = Place::new() else { return };
    place.configure("", &format!("{SINKS}\ncheckpoint: {{records: 50}}"));
    for (n, point) in (0_u32..).zip([
        "recover",
        "read",
        "sink.begin",
        "sink.middle",
        "commit.before",
        "commit.after",
        "save.before",
        "save.after",
        "acknowledge",
        "read",
    ]) {
        place.append(n * 100..n * 100 + 100);
        let hit = u64::from(1 + n % 2);
        place.program.strike(&["run", "p.yaml"], point, hit).unwrap_or_else(|e| panic!("{e}"));
    }
    place.relay_all();
    place.exactly_once_in_order();
}
