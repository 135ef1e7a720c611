//! Running other programs, and what can go wrong in a command of `xtask`.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// Why a command of `xtask` did not succeed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was called wrongly.
    Usage(String),
    /// A file could not be read or written.
    File(PathBuf, io::Error),
    /// Another program could not be started.
    Start(String, io::Error),
    /// Another program failed, and has said why.
    Program(String),
    /// What was checked or measured is not as it should be.
    Found(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) | Self::Found(what) => f.write_str(what),
            Self::File(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Start(program, error) => write!(f, "{program} could not be started: {error}"),
            Self::Program(line) => write!(f, "`{line}` failed"),
        }
    }
}

impl Failure {
    /// 2 for a wrong call, 1 for everything else.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(if matches!(self, Self::Usage(_)) { 2 } else { 1 })
    }

    /// Names the file that an error is about.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::File(path.to_owned(), error)
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// `cargo` with these arguments, in the folder of the workspace.
///
/// What the cargo that runs us has set about our own package is not passed on: build scripts look
/// at it, and would run anew each time that a build from here follows one typed by hand.
pub(crate) fn cargo<'a>(args: impl IntoIterator<Item = &'a str>) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(args).current_dir(root());
    for (name, _) in std::env::vars_os() {
        let of_package = |name: &str| {
            ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start))
        };
        if name.to_str().is_some_and(of_package) {
            cargo.env_remove(&name);
        }
    }
    cargo
}

/// The command as a person would type it.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or_default();
    let words = std::iter::once(program).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end, its output going where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.status().map_err(|error| Failure::Start(line(command), error))?;
    if status.success() { Ok(()) } else { Err(Failure::Program(line(command))) }
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>, Failure> {
    command.stderr(std::process::Stdio::inherit());
    let output = command.output().map_err(|error| Failure::Start(line(command), error))?;
    if output.status.success() { Ok(output.stdout) } else { Err(Failure::Program(line(command))) }
}

/// Whether a command runs and succeeds; what it prints is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// The built program `piton` of a profile (`debug` or `release`).
pub(crate) fn piton_binary(profile: &str) -> Result<PathBuf, Failure> {
    let metadata = output(&mut cargo(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata)
        .map_err(|error| Failure::Found(format!("cargo metadata is not JSON: {error}")))?;
    let target = metadata["target_directory"].as_str().unwrap_or("target");
    Ok(Path::new(target)
        .join(profile)
        .join("piton")
        .with_extension(std::env::consts::EXE_EXTENSION))
}
