//! Programs from Debian's unstable, run without being installed.
//!
//! apt fetches the packages with everything they depend on, checks their signatures, and keeps its
//! lists in a folder of its own; they are unpacked side by side, and the programs are started by
//! the loader, and with the C library, that came along. No right to install is needed.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{ServiceError, package};

/// The suite: the only one that has MySQL.
const SUITE: &str = "sid";
/// Where packages come from if this machine is not a Debian with a mirror of its own.
const MIRROR: &str = "http://deb.debian.org/debian";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What servers depend on and never load.
const LEFT_OUT: &[&str] = &["perl", "libperl", "gcc-"];

/// The command that runs a program of a tree, by its path in there: the loader and its arguments.
pub(super) fn command(tree: &Path, program: &str) -> [PathBuf; 4] {
    let (loader, libraries) = match std::env::consts::ARCH {
        "aarch64" => ("usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu"),
        _ => ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu"),
    };
    [tree.join(loader), "--library-path".into(), tree.join(libraries), tree.join(program)]
}

/// The tree of these packages and of what they need, fetched unless it was before, and what
/// `finish` has added to it.
pub(super) fn tree(
    name: &str,
    packages: &[&str],
    service: &'static str,
    finish: impl FnOnce(&Path) -> Result<(), String>,
) -> Result<PathBuf, ServiceError> {
    let unavailable = |why| ServiceError::Unavailable { service, why };
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if os != "linux" || !["x86_64", "aarch64"].contains(&arch) {
        return Err(unavailable(format!("none is known for {os} on {arch}")));
    }
    if package::program("apt-get").is_none() {
        return Err(unavailable("it comes from Debian's packages, and there is no apt-get".into()));
    }
    package::cached(&format!("{name}-{SUITE}"), |folder| {
        if !Path::new(KEYS).exists() {
            package::install(&["debian-archive-keyring"], "", "").map_err(unavailable)?;
        }
        let apt = tempfile::tempdir().map_err(ServiceError::doing("making a temporary folder"))?;
        package::say(&format!("fetching {} from Debian {SUITE}", packages.join(" ")));
        fetch(apt.path(), packages).map_err(unavailable)?;
        unpack(apt.path(), folder).and_then(|()| finish(folder)).map_err(unavailable)
    })
}

fn fetch(apt: &Path, packages: &[&str]) -> Result<(), String> {
    let write = |name: &str, text: &str| {
        let path = apt.join(name);
        std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    };
    for folder in ["lists/partial", "archives/partial", "sources"] {
        std::fs::create_dir_all(apt.join(folder)).map_err(|error| error.to_string())?;
    }
    let mirror = mirror().unwrap_or_else(|| MIRROR.to_owned());
    write("sources/one.list", &format!("deb [signed-by={KEYS}] {mirror} {SUITE} main\n"))?;
    // Nothing counts as installed: all that is needed is fetched.
    write("status", "")?;
    let here = apt.display();
    write(
        "apt.conf",
        &format!(
            "Dir::Etc::sourcelist \"/dev/null\";\n\
             Dir::Etc::sourceparts \"{here}/sources\";\n\
             Dir::State \"{here}\";\n\
             Dir::State::lists \"{here}/lists\";\n\
             Dir::State::status \"{here}/status\";\n\
             Dir::Cache \"{here}\";\n\
             Dir::Cache::archives \"{here}/archives\";\n\
             Acquire::Languages \"none\";\n\
             APT::Sandbox::User \"\";\n"
        ),
    )?;
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.env("APT_CONFIG", apt.join("apt.conf"));
        command
    };
    package::run(apt_get().args(["update", "-q"]))?;
    let mut install = apt_get();
    install.args(["install", "-q", "-y", "--no-install-recommends", "--download-only"]);
    package::run(install.args(packages)).map(drop)
}

/// The mirror that this machine uses for Debian itself.
fn mirror() -> Option<String> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"]);
    let output = package::run(&mut targets).ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

fn unpack(apt: &Path, folder: &Path) -> Result<(), String> {
    let archives = std::fs::read_dir(apt.join("archives")).map_err(|error| error.to_string())?;
    let names = archives.flatten().map(|entry| entry.path());
    let wanted = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let is_left_out = LEFT_OUT.iter().any(|left_out| name.starts_with(left_out));
        path.extension() == Some("deb".as_ref()) && !is_left_out
    };
    for archive in names.filter(wanted) {
        // dpkg-deb alone would unpack manuals too.
        let script = "dpkg-deb --fsys-tarfile \"$0\" | tar -x --no-same-owner \
                      --exclude=./usr/share/doc --exclude=./usr/share/man \
                      --exclude=./usr/share/locale";
        let mut shell = Command::new("sh");
        package::run(shell.args(["-c", script]).arg(archive).current_dir(folder))?;
    }
    Ok(())
}
