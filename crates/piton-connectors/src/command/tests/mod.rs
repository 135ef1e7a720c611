//! The source, the sink and the process, with real commands.
#![cfg(unix)]

use std::{path::Path, time::Duration};

use serde_json::{Value, json};

mod process;
mod sink;
mod source;

/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(20);

/// The words of a shell that runs a script.
fn shell(script: &str) -> Vec<String> {
    ["sh", "-c", script].map(str::to_owned).to_vec()
}

fn settings<T: serde::de::DeserializeOwned>(script: &str, more: Value) -> T {
    let mut settings = json!({"run": shell(script)});
    let (Value::Object(all), Value::Object(more)) = (&mut settings, more) else { panic!() };
    all.extend(more);
    serde_json::from_value(settings).unwrap()
}

/// Whether a process runs. One that has ended and was not waited for does not.
fn lives(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Waits until a file is there with something in it.
fn content(path: &Path) -> String {
    let began = std::time::Instant::now();
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text.trim().to_owned(),
            _ if began.elapsed() > PATIENCE => panic!("{} is not written", path.display()),
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
