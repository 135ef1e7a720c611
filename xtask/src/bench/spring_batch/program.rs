//! The job in Spring Batch: what it needs fetched, `Load.java` compiled, and run.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::super::{
    data,
    measure::{Measured, run_and_hear},
};
use crate::command::{Failure, output, root, run as run_to_end, succeeds};

/// Spring Batch 6 and all that it depends on, as paths in a Maven repository with their sums.
const JARS: &str = include_str!("jars.sha256");
const REPOSITORY: &str = "https://repo1.maven.org/maven2";
/// What suits such a job: less processor time and half the memory of what a JVM chooses by itself.
const JVM: [&str; 2] = ["-XX:+UseSerialGC", "-Xmx256m"];

/// What one run took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Loaded {
    /// The process, with the start of the JVM and of Spring.
    pub(super) whole: Measured,
    /// Its step alone, in seconds.
    pub(super) step_seconds: f64,
    /// Processor time of the process while its step ran, in seconds.
    pub(super) step_cpu_seconds: f64,
}

pub(super) struct Program {
    class_path: String,
    jdbc_url: String,
    input: PathBuf,
}

impl Program {
    /// Fetches and compiles it, for this database and file.
    ///
    /// # Errors
    /// When there is no JDK, or an archive cannot be had or is not what it was.
    pub(super) fn prepare(url: &str, input: &Path) -> Result<Self, Failure> {
        if !succeeds(Command::new("javac").arg("-version")) {
            let what = "Spring Batch needs a JDK of 17 or later, and there is no javac: \
                        `apt-get install default-jdk-headless`";
            return Err(Failure::Found(what.to_owned()));
        }
        let jdbc_url = jdbc_url(url)
            .ok_or_else(|| Failure::Found(format!("'{url}' cannot be told to a JVM")))?;
        let folder = data::folder()?.join("spring-batch");
        std::fs::create_dir_all(&folder).map_err(Failure::at(&folder))?;
        fetch(&folder)?;
        let jars = paths().map(|jar| folder.join(jar).display().to_string());
        let jars = jars.collect::<Vec<_>>().join(":");
        let classes = folder.join("classes");
        let source = root().join("xtask/src/bench/spring_batch/Load.java");
        let mut javac = Command::new("javac");
        javac.env("CLASSPATH", &jars).args(["-proc:none", "-d"]).arg(&classes).arg(source);
        run_to_end(&mut javac)?;
        let class_path = format!("{}:{jars}", classes.display());
        Ok(Self { class_path, jdbc_url, input: input.to_owned() })
    }

    /// The command that starts or restarts the instance of that name.
    pub(super) fn command(&self, instance: &str) -> Command {
        let mut java = Command::new("java");
        java.env("CLASSPATH", &self.class_path).args(JVM);
        java.args(["Load", &self.jdbc_url]).arg(&self.input).arg(instance);
        java
    }

    /// Runs an instance to its end.
    pub(super) fn run(&self, instance: &str) -> Result<Loaded, Failure> {
        let (whole, told) = run_and_hear(&mut self.command(instance))?;
        let told = String::from_utf8_lossy(&told);
        let unheard = || Failure::Found(format!("Load did not say what its step took: {told}"));
        told.lines().last().and_then(|line| loaded(whole, line)).ok_or_else(unheard)
    }
}

fn loaded(whole: Measured, line: &str) -> Option<Loaded> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let (step_seconds, step_cpu_seconds) = (line["seconds"].as_f64()?, line["cpu"].as_f64()?);
    Some(Loaded { whole, step_seconds, step_cpu_seconds })
}

fn paths() -> impl Iterator<Item = &'static str> {
    JARS.lines().filter_map(|line| line.split_whitespace().nth(1))
}

/// Downloads the archives that are missing, and compares all of them with their sums.
fn fetch(folder: &Path) -> Result<(), Failure> {
    let sums = folder.join("jars.sha256");
    std::fs::write(&sums, JARS).map_err(Failure::at(&sums))?;
    for jar in paths().filter(|jar| !folder.join(jar).exists()) {
        let url = format!("{REPOSITORY}/{jar}");
        let mut curl = Command::new("curl");
        // Whole or not at all: what is there is not fetched again.
        curl.args(["-fsSL", "--retry", "3", "--remove-on-error", "--create-dirs", "-o"]);
        run_to_end(curl.arg(folder.join(jar)).arg(url))?;
    }
    let mut check = Command::new("sha256sum");
    output(check.args(["--check", "--quiet", "jars.sha256"]).current_dir(folder)).map(drop)
}

/// The same database as a JVM is told it. Users' names and passwords are those of test servers:
/// nothing in them is escaped.
fn jdbc_url(url: &str) -> Option<String> {
    let (user, place) = url.split_once("://")?.1.split_once('@')?;
    let (user, password) = user.split_once(':').unwrap_or((user, ""));
    let joined = if place.contains('?') { '&' } else { '?' };
    Some(format!("jdbc:postgresql://{place}{joined}user={user}&password={password}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_jvm_is_told_the_same_database() {
        let url = jdbc_url("postgres://postgres@127.0.0.1:5433/bench").unwrap();
        assert_eq!(url, "jdbc:postgresql://127.0.0.1:5433/bench?user=postgres&password=");
        let url = jdbc_url("postgresql://me:it@host/bench?sslmode=disable").unwrap();
        assert_eq!(url, "jdbc:postgresql://host/bench?sslmode=disable&user=me&password=it");
        assert_eq!(jdbc_url("host=127.0.0.1"), None);
    }

    #[test]
    fn every_archive_has_a_path_and_a_sum() {
        assert_eq!(paths().count(), JARS.lines().count());
        assert!(JARS.lines().all(|line| line.split("  ").next().is_some_and(|s| s.len() == 64)));
    }

    #[test]
    fn the_last_line_says_what_the_step_took() {
        let second = Duration::from_secs(1);
        let whole = Measured { wall: second, cpu: second, peak: None };
        let heard = loaded(whole, r#"{"seconds":2.5,"cpu":3.5}"#).unwrap();
        assert_eq!((heard.step_seconds, heard.step_cpu_seconds), (2.5, 3.5));
        assert!(loaded(whole, "COMPLETED").is_none());
    }
}
