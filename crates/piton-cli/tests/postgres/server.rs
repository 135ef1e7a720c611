//! The server dies, or the connection to it, while the program runs: it goes on by itself.

use std::{thread, time::Duration};

use piton_testkit::{
    Dice,
    program::PATIENCE,
    service::{self, Cut, Postgres},
};

use crate::place::{Place, RUN, Sink};

#[test]
fn a_server_that_goes_and_comes_back_ten_times_is_waited_for() {
    let mut dice = Dice::new();
    let Some(mut server) = service::needed(Postgres::start()) else { return };
    let place = Place::on(&server, 60_000);
    let (append, upsert) = (Sink::Append.yaml(&place.url), Sink::Upsert.yaml(&place.url));
    let sinks = format!("sinks: {{append: {{{append}}}, upsert: {{{upsert}}}}}");
    place.configure(
        ", rate: 6000/s",
        &format!("{sinks}\ncheckpoint: {{max_replay: 100ms, max_overhead: 50%}}"),
    );
    let mut running = place.program.start(RUN).unwrap();
    for stop in 1..=10 {
        let begin = place.rows_in(Sink::Append);
        let more = dice.between(1, 2_000);
        running
            .until("progress", PATIENCE, |_| place.rows_in(Sink::Append) >= begin + more)
            .unwrap_or_else(|error| panic!("stop {stop}: {error}"));
        if dice.between(0, 1) == 0 {
            server.kill().unwrap();
        } else {
            server.stop().unwrap();
        }
        thread::sleep(Duration::from_millis(dice.between(0, 300)));
        server.start_again().unwrap();
    }
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    place.exactly_once(Sink::Append);
    place.exactly_once(Sink::Upsert);
}

#[test]
fn a_connection_cut_at_random_bytes_changes_nothing() {
    let mut dice = Dice::new();
    let Some(server) = service::needed(Postgres::shared()) else { return };
    for sink in [Sink::Append, Sink::Upsert] {
        let place = Place::on(server, 60_000);
        let cut = Cut::before(server.address()).unwrap();
        let sinks = format!("sinks: {{out: {{{}}}}}", sink.yaml(&cut.url(&place.url)));
        place.configure("", &format!("{sinks}\ncheckpoint: {{records: 1000}}"));
        let mut running = place.program.start(RUN).unwrap();
        running.until("its first rows", PATIENCE, |_| place.rows_in(sink) > 0).unwrap();
        for seen in 1..=12 {
            match dice.between(0, 3) {
                0 => cut.lose_request("COMMIT"),
                1 => cut.lose_answer("COMMIT", "COMMIT"),
                2 => cut.after_answered(dice.between(1, 6_000)),
                _ => cut.after_sent(dice.between(1, 200_000)),
            }
            // Where the whole is through, there is nothing left to cut.
            if running.until("a cut", PATIENCE, |_| cut.cuts() >= seen).is_err() {
                break;
            }
        }
        let ended = running.wait(PATIENCE).unwrap();
        assert_eq!(ended.code, Some(0), "{sink:?}: {ended}");
        assert!(cut.cuts() >= 6, "{sink:?}: only {} cuts", cut.cuts());
        place.exactly_once(sink);
    }
}

/// What a run says that it has done is what is durable, whichever reader brought it.
#[test]
fn a_run_whose_server_was_away_counts_all_that_it_brought() {
    let Some(mut server) = service::needed(Postgres::start()) else { return };
    let place = Place::on(&server, 30_000);
    let sinks = format!("sinks: {{out: {{{}}}}}", Sink::Append.yaml(&place.url));
    place.configure(", rate: 4000/s", &format!("{sinks}\ncheckpoint: {{max_replay: 200ms}}"));
    let mut running = place.program.start(RUN).unwrap();
    running.until("its first rows", PATIENCE, |_| place.rows_in(Sink::Append) > 0).unwrap();
    server.kill().unwrap();
    server.start_again().unwrap();
    let ended = running.wait(PATIENCE).unwrap();
    assert_eq!(ended.code, Some(0), "{ended}");
    assert!(ended.stderr.contains("finished: 30,000 records in"), "{ended}");
    place.exactly_once(Sink::Append);
}

/// A sink that has found the row which was refused, and goes on, raises no alarm.
#[test]
fn a_sink_that_has_set_a_row_aside_is_not_behind() {
    let Some(place) = Place::new(1) else { return };
    place.client().batch_execute("CREATE TABLE appended (id int PRIMARY KEY, z date)").unwrap();
    place.write("in.jsonl", "{\"id\":1,\"z\":\"0000-00-00\"}\n{\"id\":2,\"z\":\"2024-01-01\"}\n");
    place.write(
        "p.yaml",
        &format!(
            "pipeline: p\nsource: {{jsonl: {{path: in.jsonl, follow: true}}}}\n\
             sinks: {{out: {{{}}}}}\non_error: dead_letter\n",
            Sink::Append.yaml(&place.url)
        ),
    );
    let mut running = place.program.start(RUN).unwrap();
    running.until("the good row", PATIENCE, |_| place.rows_in(Sink::Append) == 1).unwrap();
    let is_well = || place.program.run(&["status", "p", "--check"]).unwrap().code == Some(0);
    running.until("no alarm", PATIENCE, |_| is_well()).unwrap();
    running.interrupt().unwrap();
    let ended = running.wait(PATIENCE).unwrap();
    assert!(!ended.stderr.contains("is behind (") && is_well(), "{ended}");
}
