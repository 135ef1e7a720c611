//! Killed at every moment, and done once.

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::{self, Command},
    thread,
    time::Duration,
};

use piton_connectors::sql_statements::Executed;
use piton_core::{Epoch, fault};

use super::place::{all, execute, key, mark, open};

const INSERTS: [&str; 2] = ["INSERT INTO log VALUES (1)", "INSERT INTO log VALUES (2)"];
const SIGKILL: i32 = 9;

/// Invariant 5.
#[test]
fn a_kill_at_any_moment_leaves_the_effect_once() {
    for place in all() {
        place.run("CREATE TABLE log (n INT)");
        let moments = ["sink.begin", "sink.middle", "sink.after", "commit.before", "commit.after"];
        for (epoch, moment) in (1..).step_by(2).zip(moments) {
            place.run("DELETE FROM log");
            let ended = Command::new(env::current_exe().unwrap())
                .args(["crashes::child", "--exact", "--nocapture"])
                .env("PITON_TEST_URL", &place.url)
                .env("PITON_TEST_MOMENT", moment)
                .env("PITON_TEST_EPOCH", epoch.to_string())
                .output()
                .unwrap();
            assert_eq!(ended.status.signal(), Some(SIGKILL), "{moment}: {ended:?}");
            let mut heir = place.open();
            let found = heir.fence(&key(moment), Epoch(epoch + 1)).unwrap();
            assert_eq!(found.is_some(), moment == "commit.after", "{moment}");
            let executed = execute(&mut *heir, &mark(moment, epoch + 1), &INSERTS).unwrap();
            assert_eq!(matches!(executed, Executed::WasDone { .. }), found.is_some(), "{moment}");
            assert_eq!(place.count("log"), 2, "{moment}");
        }
    }
}

/// The process that is killed.
#[test]
fn child() {
    let Ok(url) = env::var("PITON_TEST_URL") else { return };
    let moment = env::var("PITON_TEST_MOMENT").unwrap();
    let epoch = env::var("PITON_TEST_EPOCH").unwrap().parse().unwrap();
    fault::arm_from(&moment, kill, kill).unwrap();
    let executed = execute(&mut *open(&url), &mark(&moment, epoch), &INSERTS);
    panic!("it was to be killed: {executed:?}");
}

fn kill() {
    Command::new("kill").args(["-9", &process::id().to_string()]).status().unwrap();
    thread::sleep(Duration::from_mins(1));
}
