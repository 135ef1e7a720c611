//! Killed in the middle and started again by the same command: what a machine does at night.

use std::{
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{ROWS, Target, found};
use crate::command::{Failure, line};

/// How often the table is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How long a third of the rows, or the end of a killed program's sessions, may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// What became of a killed program's work.
pub(super) struct Again {
    /// Rows that were committed when it was killed.
    pub(super) killed_at: usize,
    /// Why the second start did not go on, if it did not.
    pub(super) refusal: Option<String>,
    /// Rows in the table after it.
    pub(super) rows: usize,
    /// Whether these are the rows of a run that nothing disturbed.
    pub(super) is_exact: bool,
}

/// Starts a program, sends it SIGKILL when a third of the rows are there, and starts it again.
pub(super) fn kill_and_start_again(
    target: &Target,
    mut command: Command,
) -> Result<Again, Failure> {
    target.empty()?;
    let program = line(&command);
    let failed = |error| Failure::Start(program.clone(), error);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(failed)?;
    let grown = wait_until(|| {
        let is_over = child.try_wait().map_err(failed)?.is_some();
        Ok(is_over || target.rows()? >= ROWS / 3)
    });
    child.kill().map_err(failed)?;
    child.wait().map_err(failed)?;
    grown?;
    // A session may still be committing what the program had sent.
    wait_until(|| Ok(target.sessions()? == 0))?;
    let killed_at = target.rows()?;
    if killed_at == 0 || killed_at >= ROWS {
        return Err(Failure::Found(format!(
            "`{program}` was not killed in the middle: {killed_at} rows of {ROWS}"
        )));
    }
    let second = command.stderr(Stdio::piped()).spawn().map_err(failed)?;
    let second = second.wait_with_output().map_err(failed)?;
    let said = String::from_utf8_lossy(&second.stderr);
    let refusal = (!second.status.success()).then(|| why(&said));
    let (rows, is_exact) = (target.rows()?, target.is_exact()?);
    Ok(Again { killed_at, refusal, rows, is_exact })
}

fn wait_until(mut is_so: impl FnMut() -> Result<bool, Failure>) -> Result<(), Failure> {
    let began = Instant::now();
    while !is_so()? {
        if began.elapsed() > PATIENCE {
            return Err(found(&"a program to be killed in the middle does not get there"));
        }
        thread::sleep(LOOK);
    }
    Ok(())
}

/// The exception that ended a JVM, or the last line of what a program said.
fn why(said: &str) -> String {
    let uncaught = |line: &str| {
        let class = line.strip_prefix("Exception in thread \"main\" ")?.split(':').next()?;
        Some(class.rsplit('.').next().unwrap_or(class).to_owned())
    };
    let last = || said.lines().last().unwrap_or("it said nothing").to_owned();
    said.lines().find_map(uncaught).unwrap_or_else(last)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_uncaught_exception_is_why() {
        let said =
            "INFO: a\nException in thread \"main\" org.a.b.TwiceException: no: again\n\tat c\n";
        assert_eq!(super::why(said), "TwiceException");
        assert_eq!(super::why("a\nheld by b\n"), "held by b");
        assert_eq!(super::why(""), "it said nothing");
    }
}
