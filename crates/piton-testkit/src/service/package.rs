//! Getting what this machine lacks: by apt, or by a download that is kept.
//!
//! What is downloaded is kept in `$XDG_CACHE_HOME/piton-services`, by default
//! `~/.cache/piton-services`. Root's servers run as another user, who may not enter root's home:
//! there it is `/var/cache/piton-services`.

use std::{
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::{ServiceError, process::Account};

/// Root's cache where its own cannot be entered by others.
const CACHE_FOR_ALL: &str = "/var/cache";

/// Seconds that apt waits for another apt.
const APT_PATIENCE: &str = "DPkg::Lock::Timeout=300";

/// Where downloads are kept. It is there when this returns.
pub(super) fn cache_folder() -> Result<PathBuf, ServiceError> {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::home_dir().map(|home| home.join(".cache"));
    let cache = given.filter(|path| path.is_absolute()).or_else(home);
    let cache = cache.filter(|path| !Account::is_root() || can_be_entered_by_all(path));
    let folder = cache.unwrap_or_else(|| CACHE_FOR_ALL.into()).join("piton-services");
    std::fs::create_dir_all(&folder).map_err(ServiceError::at(&folder))?;
    Ok(folder)
}

fn can_be_entered_by_all(path: &Path) -> bool {
    let closed = |path: &Path| path.metadata().is_ok_and(|m| m.permissions().mode() & 0o001 == 0);
    !path.ancestors().any(closed)
}

/// The folder `name` of the cache, filled by `fill` if it is not there yet. Several processes may
/// ask at once, and one that dies while it fills leaves nothing that looks whole.
pub(super) fn cached(
    name: &str,
    fill: impl FnOnce(&Path) -> Result<(), ServiceError>,
) -> Result<PathBuf, ServiceError> {
    let cache = cache_folder()?;
    let folder = cache.join(name);
    if folder.exists() {
        return Ok(folder);
    }
    let _lock = lock(&cache, name)?;
    if folder.exists() {
        return Ok(folder);
    }
    let making = tempfile::Builder::new().prefix(&format!("{name}.")).tempdir_in(&cache);
    let making = making.map_err(ServiceError::at(&cache))?;
    fill(making.path())?;
    let open = Permissions::from_mode(0o755);
    std::fs::set_permissions(making.path(), open).map_err(ServiceError::at(&folder))?;
    std::fs::rename(making.path(), &folder).map_err(ServiceError::at(&folder))?;
    Ok(folder)
}

fn lock(cache: &Path, name: &str) -> Result<File, ServiceError> {
    let path = cache.join(format!("{name}.lock"));
    let file = File::create(&path).map_err(ServiceError::at(&path))?;
    file.lock().map_err(ServiceError::at(&path))?;
    Ok(file)
}

/// Where a program is, by `PATH` and the folders of programs for administrators.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path);
    let folders = folders.chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// A step towards having something, said on standard error: it takes a while, or changes the
/// machine.
pub(super) fn say(what: &str) {
    eprintln!("piton-testkit: {what}");
}

/// Installs packages by apt, as root or by a sudo that asks for no password. `before` and `after`
/// are shell commands, run as root around it. The error says why it is not to be had.
pub(super) fn install(packages: &[&str], before: &str, after: &str) -> Result<(), String> {
    let names = packages.join(" ");
    if program("apt-get").is_none() {
        return Err(format!("there is no apt-get to install it with; install {names} by hand"));
    }
    let mut root = if Account::is_root() {
        Command::new("sh")
    } else {
        let mut sudo = Command::new("sudo");
        if !succeeds(sudo.args(["-n", "true"])) {
            return Err(format!("only root can install it: `apt-get install {names}`"));
        }
        sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        sudo
    };
    let cache = cache_folder().map_err(|error| error.to_string())?;
    let _lock = lock(&cache, "apt").map_err(|error| error.to_string())?;
    say(&format!("installing {names} by apt"));
    let install =
        format!("apt-get -o {APT_PATIENCE} install -q -y --no-install-recommends {names}");
    let script = format!(
        "export DEBIAN_FRONTEND=noninteractive\n{before}\n\
         {install} || {{ apt-get -o {APT_PATIENCE} update -q && {install}; }}\n\
         code=$?\n{after}\nexit $code"
    );
    run(root.arg("-c").arg(script)).map(drop)
}

/// Makes sure that these programs, each with the package that brings it, are here.
pub(super) fn need(programs: &[(&str, &str)]) -> Result<(), String> {
    let missing = programs.iter().filter(|(name, _)| program(name).is_none());
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if packages.is_empty() { Ok(()) } else { install(&packages, "", "") }
}

/// Downloads a file and compares it with what it is known to be.
pub(super) fn download(url: &str, sha256: &str, to: &Path) -> Result<(), String> {
    need(&[("curl", "curl ca-certificates")])?;
    say(&format!("fetching {url}"));
    let mut curl = Command::new("curl");
    curl.args(["-fsSL", "--retry", "3", "--connect-timeout", "20", "-o"]).arg(to).arg(url);
    run(&mut curl)?;
    let sum = run(Command::new("sha256sum").arg(to))?;
    let sum = String::from_utf8_lossy(&sum.stdout);
    if sum.starts_with(sha256) {
        return Ok(());
    }
    Err(format!("{url} is not what it was: expected SHA-256 {sha256}, got {}", sum.trim()))
}

/// Runs a program to its end. The error is the end of what it said.
pub(super) fn run(command: &mut Command) -> Result<Output, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name} could not be started: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Err(format!("{name} failed: {}", last_lines(&String::from_utf8_lossy(&said))))
}

fn succeeds(command: &mut Command) -> bool {
    run(command).is_ok()
}

/// The end of a long text: where programs say why they gave up.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_filled_is_not_there() {
        let name = format!("test-{}", std::process::id());
        let failed = cached(&name, |folder| {
            std::fs::write(folder.join("half"), "").unwrap();
            Err(ServiceError::Unavailable { service: "test", why: "no network".to_owned() })
        });
        assert!(failed.is_err());
        let folder = cached(&name, |folder| {
            std::fs::write(folder.join("whole"), "").map_err(ServiceError::at(folder))
        });
        let folder = folder.unwrap();
        assert!(folder.join("whole").exists() && !folder.join("half").exists());
        let again = cached(&name, |_| panic!("it is there already")).unwrap();
        assert_eq!(again, folder);
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::remove_file(folder.with_extension("lock")).unwrap();
    }

    #[test]
    fn a_download_that_is_something_else_is_refused() {
        if program("curl").is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&from, "abc").unwrap();
        let url = format!("file://{}", from.display());
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        download(&url, known, &to).unwrap();
        let error = download(&url, &known.replace('b', "c"), &to).unwrap_err();
        assert!(error.contains(known) && error.contains("is not what it was"), "{error}");
    }
}
