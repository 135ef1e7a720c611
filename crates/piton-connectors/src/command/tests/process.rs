use std::{
    fs::File,
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{PATIENCE, content, lives, shell};
use crate::command::process::{End, Launch, Process, ProcessError, Program};

fn program(script: &str, folder: &std::path::Path) -> Program {
    Program::new(&shell(script), folder).unwrap()
}

fn quiet(_: &str) {}

#[track_caller]
fn ended(process: &mut Process) -> End {
    process.wait(Some(PATIENCE), &|| false).unwrap().expect("it has not ended")
}

#[test]
fn it_runs_in_its_folder_with_its_environment_and_all_it_says_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let script = "pwd; echo \"$PITON_JOB ${PITON_POSITION-unset}\"; echo trouble >&2; exit 7";
    let program = program(script, folder.path());
    let launch = Launch::of(&program).with("PITON_JOB", "nightly").without("PITON_POSITION");
    let said = Arc::new(Mutex::new(Vec::new()));
    let (out, err) = (Arc::clone(&said), Arc::clone(&said));
    let told = |said: Arc<Mutex<Vec<String>>>| {
        move |line: &str| said.lock().unwrap().push(line.to_owned())
    };
    let mut process = launch.start(told(err)).unwrap();
    process.listen(told(out));
    assert_eq!(ended(&mut process), End::Code(7));
    let mut lines = said.lock().unwrap().clone();
    lines.sort();
    let folder = folder.path().canonicalize().unwrap().display().to_string();
    assert_eq!(lines, [folder.as_str(), "nightly unset", "trouble"]);
    assert_eq!(process.last_words(), "trouble");
}

#[test]
fn a_command_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    let new = |list: &[&str]| Program::new(&words(list), folder.path());
    assert!(matches!(new(&[]), Err(ProcessError::Empty)));
    assert!(matches!(new(&[""]), Err(ProcessError::Empty)));
    assert!(matches!(new(&["a", "b\0"]), Err(ProcessError::ZeroByte { .. })));
    std::fs::write(folder.path().join("plain"), "text").unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    for name in ["no-such-command-anywhere", "./missing", "./plain", "./folder"] {
        let error = new(&[name]).unwrap().find().unwrap_err();
        assert!(matches!(&error, ProcessError::NotFound { name: of, .. } if of == name), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    assert!(new(&["sh"]).unwrap().find().is_ok());
}

#[test]
fn time_and_a_flag_end_the_waiting_and_not_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let program = program("sleep 30", folder.path());
    let mut process = Launch::of(&program).start(quiet).unwrap();
    let began = Instant::now();
    assert_eq!(process.wait(Some(Duration::from_millis(50)), &|| false).unwrap(), None);
    let flag = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(50));
            flag.store(true, Ordering::Relaxed);
        });
        assert_eq!(process.wait(None, &|| flag.load(Ordering::Relaxed)).unwrap(), None);
    });
    assert!(lives(process.id()) && began.elapsed() < Duration::from_secs(10));
    assert_eq!(process.stop(), End::Signal(15));
    assert_eq!(process.stop(), End::Signal(15), "asked again it says the same");
}

#[test]
fn all_of_its_group_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let script = "sleep 60 & echo $! >child; wait";
    let program = program(script, folder.path());
    let process = Launch::of(&program).start(quiet).unwrap();
    let child: u32 = content(&folder.path().join("child")).parse().unwrap();
    let own = process.id();
    assert!(lives(own) && lives(child));
    drop(process);
    assert!(!lives(own) && !lives(child));

    // What it leaves behind when it ends by itself, too.
    std::fs::remove_file(folder.path().join("child")).unwrap();
    let leaves = Program::new(&shell("sleep 60 & echo $! >child"), folder.path()).unwrap();
    let mut process = Launch::of(&leaves).start(quiet).unwrap();
    assert_eq!(ended(&mut process), End::Code(0));
    let child: u32 = content(&folder.path().join("child")).parse().unwrap();
    assert!(!lives(child));
}

#[test]
fn who_does_not_end_when_asked_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; echo x >ready; while :; do sleep 1; done";
    let program = program(script, folder.path());
    let mut process = Launch::of(&program).grace(Duration::from_millis(200)).start(quiet).unwrap();
    content(&folder.path().join("ready"));
    let began = Instant::now();
    assert_eq!(process.stop(), End::Signal(9));
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(200) && took < Duration::from_secs(3), "{took:?}");
}

/// A lock on an open file is held until the last who has it open has ended.
#[test]
fn a_descriptor_is_inherited_by_this_command_alone_and_by_its_children() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lock");
    let lock = File::create(&path).unwrap();
    lock.try_lock().unwrap();
    let is_free = || File::open(&path).unwrap().try_lock_shared().is_ok();
    let waits =
        |name: &str| format!("(echo x >{name}; while [ ! -e end-{name} ]; do sleep 0.01; done)");
    let with = program(&format!("{} & wait", waits("with")), folder.path());
    let without = program(&waits("without"), folder.path());
    let mut without = Launch::of(&without).start(quiet).unwrap();
    let mut with = Launch::of(&with).inheriting(lock.as_fd()).start(quiet).unwrap();
    content(&folder.path().join("with"));
    content(&folder.path().join("without"));
    drop(lock);
    assert!(!is_free(), "its child has the lock");
    File::create(folder.path().join("end-with")).unwrap();
    assert_eq!(ended(&mut with), End::Code(0));
    assert!(is_free(), "nobody else has");
    File::create(folder.path().join("end-without")).unwrap();
    assert_eq!(ended(&mut without), End::Code(0));
}

/// Invariant 8.
#[test]
fn gigabytes_on_standard_error_and_output_stay_out_of_memory() {
    let folder = tempfile::tempdir().unwrap();
    // Half of it in one line, the rest in lines of usual length.
    let script = "for to in 1 2; do
        (head -c 500000000 /dev/zero | tr '\\0' x; yes 'a line of usual length, more or less, I
            should think, and no more than that' | head -c 500000000; echo last) >&$to &
        done; wait";
    let program = program(script, folder.path());
    let (lines, bytes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counting = || {
        let (lines, bytes) = (Arc::clone(&lines), Arc::clone(&bytes));
        move |line: &str| {
            assert!(line.len() < 10_000);
            lines.fetch_add(1, Ordering::Relaxed);
            bytes.fetch_add(line.len() + 1, Ordering::Relaxed);
        }
    };
    let before = memory();
    let mut process = Launch::of(&program).start(counting()).unwrap();
    process.listen(counting());
    let end = process.wait(Some(Duration::from_mins(2)), &|| false).unwrap();
    assert_eq!(end, Some(End::Code(0)));
    assert!(bytes.load(Ordering::Relaxed) > 990_000_000, "{bytes:?} bytes, {lines:?} lines");
    assert!(process.last_words().ends_with("last"), "{}", process.last_words());
    let grown = memory().saturating_sub(before);
    // Other tests run meanwhile, in the same process.
    assert!(grown < 256 << 20, "{grown} bytes more");
}

/// The most that this process ever had, in bytes.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}
