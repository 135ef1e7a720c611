//! A simulated power loss: what was written and not synced is gone.
//!
//! A killed process loses nothing that it has handed to the operating system, so a missing fsync
//! shows only when the power goes. A small library is preloaded into the program under test and
//! notes the length of each file at each sync (`power.c`, compiled by the C compiler that the
//! build needs anyway). After the kill, [`PowerLog::lose`] cuts files back to the length that was
//! last synced. That is the most that an append-only file may lose; a page that was overwritten
//! in place keeps its new content, which a real loss might not.
//!
//! Syncs that do not go through the C library are not seen, and count as not made. A file is known
//! by its inode, so that it may be renamed after it was synced; one that was removed may leave its
//! inode, and what was noted of it, to another.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::program::Program;

const SOURCE: &str = include_str!("power.c");

/// The preloaded library and what it has noted.
#[derive(Debug)]
pub struct PowerLog {
    folder: TempDir,
}

impl PowerLog {
    /// Compiles the library.
    ///
    /// # Errors
    /// When there is no C compiler, or it fails.
    pub fn new() -> io::Result<Self> {
        let log = Self { folder: tempfile::tempdir()? };
        let source = log.folder.path().join("power.c");
        std::fs::write(&source, SOURCE)?;
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(log.library()).arg(source).arg("-ldl");
        let output = compile.output()?;
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        Ok(log)
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("power.so")
    }

    fn notes(&self) -> PathBuf {
        self.folder.path().join("syncs")
    }

    /// The program with its syncs noted.
    pub fn watch(&self, program: Program) -> Program {
        let library = self.library();
        program
            .with("LD_PRELOAD", &library.to_string_lossy())
            .with("POWER_LOG", &self.notes().to_string_lossy())
    }

    /// How often files were synced so far.
    pub fn syncs(&self) -> usize {
        self.noted().len()
    }

    /// Cuts files to the length that was last synced, to nothing if they never were. Returns how
    /// many bytes were lost. Files that are not there are left out.
    ///
    /// # Errors
    /// What cutting a file may fail with.
    pub fn lose(&self, files: &[&Path]) -> io::Result<u64> {
        let noted = self.noted();
        let mut lost = 0;
        for file in files.iter().filter(|file| file.exists()) {
            let about = file.metadata()?;
            let synced =
                noted.iter().rev().find(|sync| (sync[1], sync[2]) == (about.dev(), about.ino()));
            let kept = synced.map_or(0, |sync| sync[0]);
            let length = about.len();
            if length > kept {
                OpenOptions::new().write(true).open(file)?.set_len(kept)?;
                lost += length - kept;
            }
        }
        Ok(lost)
    }

    /// Forgets what was noted, for the next run.
    ///
    /// # Errors
    /// What emptying a file may fail with.
    pub fn forget(&self) -> io::Result<()> {
        File::create(self.notes()).map(drop)
    }

    /// Length, device and inode, in the order of the syncs.
    fn noted(&self) -> Vec<[u64; 3]> {
        let text = std::fs::read_to_string(self.notes()).unwrap_or_default();
        let numbers = |line: &str| -> Option<[u64; 3]> {
            let numbers: Result<Vec<u64>, _> = line.split(' ').map(str::parse).collect();
            numbers.ok()?.try_into().ok()
        };
        text.lines().filter_map(numbers).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_synced_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let log = PowerLog::new().unwrap();
        let dd = log.watch(Program::new("dd", folder.path()));
        let write = |name: &str, count: &str, sync: &str| {
            let of = format!("of={name}");
            dd.run_to(0, &["if=/dev/zero", &of, "bs=10", count, sync, "oflag=append"]).unwrap();
        };
        write("synced", "count=2", "conv=notrunc,fsync");
        write("synced", "count=1", "conv=notrunc");
        write("never", "count=1", "conv=notrunc");

        let path = |name: &str| folder.path().join(name);
        assert_eq!(log.syncs(), 1);
        let (synced, never, absent) = (path("synced"), path("never"), path("absent"));
        assert_eq!(log.lose(&[&synced, &never, &absent]).unwrap(), 20);
        assert_eq!(synced.metadata().unwrap().len(), 20);
        assert_eq!(never.metadata().unwrap().len(), 0);
        log.forget().unwrap();
        assert_eq!(log.lose(&[&synced]).unwrap(), 20);
    }

    #[test]
    fn the_syncs_of_a_rust_program_are_seen() {
        // This test's own binary is the program: it runs the test below with a file to write.
        let folder = tempfile::tempdir().unwrap();
        let log = PowerLog::new().unwrap();
        let itself = std::env::current_exe().unwrap();
        let file = folder.path().join("f");
        let program = log.watch(Program::new(itself, folder.path()));
        let program = program.with("SYNC_THIS", &file.to_string_lossy());
        program.run_to(0, &["power::tests::sync_a_file_if_asked"]).unwrap();
        assert_eq!((log.syncs(), log.lose(&[&file]).unwrap()), (1, 4));
    }

    #[test]
    fn sync_a_file_if_asked() {
        let Some(path) = std::env::var_os("SYNC_THIS") else { return };
        let mut file = File::create(path).unwrap();
        io::Write::write_all(&mut file, b"safe").unwrap();
        file.sync_data().unwrap();
        io::Write::write_all(&mut file, b"lost").unwrap();
    }
}
