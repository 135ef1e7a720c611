//! Commands that outlive whoever started them: the job is held until they end, and no longer.

use std::{
    path::Path,
    thread,
    time::{Duration, Instant},
};

use piton_testkit::{
    program::PATIENCE,
    service::{self, MariaDb, Postgres},
};

use crate::place::{Place, RUN, each};

const LONG: &str = "job: j\nclaim: {lease: 1s, when_held: wait}\nsteps:
  - step: long
    run: [sh, -c, 'echo begin >> log; while [ -e log ] && [ ! -e go ]; do sleep 0.05; done; echo end >> log']
";

/// SIGKILL of the program alone, while its command lives on: never two at once, for longer than a
/// lease; and once the command has ended, the heir begins at once.
#[track_caller]
fn is_held_until_its_command_ends(place: &Place) {
    place.job(LONG);
    let mut first = place.program.start(RUN).unwrap();
    first.until("its command", PATIENCE, |_| !place.lines("log").is_empty()).unwrap();
    // A claim that was last renewed in a server's first second counts as one of the time before.
    thread::sleep(Duration::from_secs(2));
    first.kill().unwrap();
    let heir = place.program.start(RUN).unwrap();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(place.lines("log"), ["begin"], "longer than the lease");
    place.touch("go");
    place.until_lines("log", 2);
    let ended = Instant::now();
    place.until_lines("log", 4);
    assert!(ended.elapsed() < Duration::from_secs(5), "{:?}", ended.elapsed());
    let heir = heir.wait(PATIENCE).unwrap();
    assert_eq!(heir.code, Some(0), "{heir}");
    assert_eq!(place.lines("log"), ["begin", "end", "begin", "end"]);
}

#[test]
fn a_job_is_held_while_the_command_of_a_killed_owner_lives() {
    each(|_, place| is_held_until_its_command_ends(&place));
}

/// The kernel closes what is encrypted as it closes everything else.
#[test]
fn a_job_is_held_over_tls() {
    for (options, tls) in [
        (Postgres::options(), "sslmode=verify-full&sslrootcert="),
        (MariaDb::options(), "ssl-mode=verify_identity&ssl-ca="),
    ] {
        let Some(server) = service::needed(options.tls().start()) else { return };
        let url = server.database().unwrap();
        let url = url.split_once('?').map_or(&*url, |(url, _)| url);
        let url = url.replace("127.0.0.1", "localhost");
        let authority = server.authority().unwrap().display().to_string().replace('/', "%2F");
        is_held_until_its_command_ends(&Place::at(format!("{url}?{tls}{authority}")));
    }
}

#[test]
fn a_job_is_held_over_a_socket_of_unix() {
    let Some(server) = service::needed(Postgres::options().start()) else { return };
    let url = server.database().unwrap();
    let path = url.split_once('?').map_or(&*url, |(url, _)| url).to_owned();
    let (account, rest) = path.split_once('@').unwrap();
    let (place, database) = rest.split_once('/').unwrap();
    let port = place.rsplit_once(':').unwrap().1;
    let folder = folder_of_sockets(&url);
    let is_there = Path::new(&folder).join(format!(".s.PGSQL.{port}")).exists();
    assert!(is_there, "{folder}");
    let url = format!("{account}@{}:{port}/{database}", folder.replace('/', "%2F"));
    is_held_until_its_command_ends(&Place::at(url));
}

fn folder_of_sockets(url: &str) -> String {
    let mut client = postgres::Client::connect(url, postgres::NoTls).unwrap();
    client.query_one("SHOW unix_socket_directories", &[]).unwrap().get(0)
}

/// An owner that stands still while its command is at work is not replaced, however long.
#[test]
fn a_frozen_owner_is_spared_while_its_command_lives() {
    each(|_, place| {
        place.job(LONG);
        let first = place.program.start(RUN).unwrap();
        place.until_lines("log", 1);
        first.freeze().unwrap();
        let heir = place.program.start(RUN).unwrap();
        thread::sleep(Duration::from_secs(4));
        assert_eq!(place.lines("log"), ["begin"]);
        first.thaw().unwrap();
        place.touch("go");
        assert_eq!(first.wait(PATIENCE).unwrap().code, Some(0));
        assert_eq!(heir.wait(PATIENCE).unwrap().code, Some(0));
        assert_eq!(place.lines("log"), ["begin", "end"]);
    });
}

/// A save is in doubt while a command is at work: its owner claims the job anew, and when it is
/// killed after that, the command holds the new claim.
#[test]
fn a_claim_that_is_had_anew_is_held_by_the_commands_of_the_old_one() {
    let Some(server) = service::needed(Postgres::shared()) else { return };
    let place = Place::on(server);
    place.job(&format!(
        "{LONG}  - {{step: short, run: [sh, -c, 'while [ -e job.yaml ] && [ ! -e on ]; do sleep 0.05; done']}}
  - {{step: next, after: [short], run: [sh, -c, 'echo next >> nexts; while [ -e nexts ] && [ ! -e go ]; do sleep 0.05; done']}}
parallel: 2\n"
    ));
    let first = place.program.start(RUN).unwrap();
    place.until_lines("log", 1);
    let mut client = postgres::Client::connect(&place.store, postgres::NoTls).unwrap();
    client.batch_execute("BEGIN; LOCK TABLE piton.checkpoints IN EXCLUSIVE MODE").unwrap();
    place.touch("on");
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let asked = Instant::now();
    while client.query(cut, &[]).unwrap().is_empty() {
        assert!(asked.elapsed() < PATIENCE, "it stores nothing");
        thread::sleep(Duration::from_millis(20));
    }
    client.batch_execute("COMMIT").unwrap();
    place.until_lines("nexts", 1);
    let epoch = client.query_one("SELECT max(epoch) FROM piton.claims", &[]).unwrap();
    assert_eq!(epoch.get::<_, i64>(0), 2, "it was claimed anew");
    first.kill().unwrap();
    let heir = place.program.start(RUN).unwrap();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(place.lines("log"), ["begin"]);
    heir.kill().unwrap();
    place.touch("go");
    place.until_lines("log", 2);
}
