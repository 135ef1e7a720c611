//! Commands that outlive whoever started them: the job stays held until they have ended.

use futures_executor::block_on;
use piton::job::{STEP, WHOLE_JOB};
use piton_core::{Holder, Owner, Store, StoreError};
use serde_json::Value as Json;

use super::view::state_of;

/// What a holder of a job that has died has left at work, in words; `None` if it lives, as far as this
/// machine can see, or left nothing. Only what people are told depends on that.
pub(crate) fn left_by(
    store: &dyn Store,
    job: &str,
    holder: &Holder,
) -> Result<Option<String>, StoreError> {
    if !is_gone(&holder.owner) {
        return Ok(None);
    }
    let commands = at_work(store, job)?;
    if commands.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!(
        "'{job}' was run by {holder}, which has died, and its command is still at work: {}. Nothing \
         else of the job begins before that has ended",
        commands.join(", ")
    )))
}

/// Whether a command of a job may be at work.
pub(super) fn has_command(store: &dyn Store, job: &str) -> Result<bool, StoreError> {
    let checkpoints = block_on(store.load(job))?;
    Ok(checkpoints.iter().any(|c| state_of(c).is_some_and(|state| state.is_running_command())))
}

/// The commands that may be at work, each by its step and as it is written in the file.
fn at_work(store: &dyn Store, job: &str) -> Result<Vec<String>, StoreError> {
    let known = block_on(store.pipelines())?.into_iter().find(|known| known.pipeline == job);
    let definition = known.and_then(|known| serde_json::from_str::<Json>(&known.transforms).ok());
    let definition = definition.unwrap_or_default();
    let checkpoints = block_on(store.load(job))?;
    let steps = checkpoints.iter().filter(|c| c.key.sink == STEP);
    let running = steps.filter(|c| state_of(c).is_some_and(|state| state.is_running_command()));
    Ok(running.map(|c| named(&definition, &c.key.partition)).collect())
}

fn named(definition: &Json, path: &str) -> String {
    if path == WHOLE_JOB {
        return "what is done once the job is done or has failed".to_owned();
    }
    match words(definition, path) {
        Some(words) => format!("step '{path}' runs '{words}'"),
        None => format!("step '{path}'"),
    }
}

/// What a step runs, if it is a command itself.
fn words(definition: &Json, path: &str) -> Option<String> {
    let mut step = definition;
    for name in path.split('/') {
        // Of several records at once each has a number.
        let name = name.split('#').next()?;
        step = step["steps"].as_array()?.iter().find(|step| step["step"] == name)?;
    }
    let words: Option<Vec<&str>> = step["run"].as_array()?.iter().map(Json::as_str).collect();
    Some(words?.join(" "))
}

/// Whether a process of this machine has ended. Of another machine's nothing is known.
fn is_gone(owner: &Owner) -> bool {
    let here = piton_stores::this_process();
    owner.host == here.host && !is_alive(owner.pid)
}

#[cfg(target_os = "linux")]
fn is_alive(pid: u32) -> bool {
    let Ok(about) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // After the name, which may have anything in it. One that has ended may wait for its parent.
    let state = about.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    !matches!(state, Some('Z' | 'X'))
}

#[cfg(all(unix, not(target_os = "linux")))]
fn is_alive(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    let asked = pid.map(rustix::process::test_kill_process);
    asked.is_none_or(|asked| asked != Err(rustix::io::Errno::SRCH))
}

#[cfg(not(unix))]
fn is_alive(_: u32) -> bool {
    true
}
