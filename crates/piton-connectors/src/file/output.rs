//! A file that is written by one process, up to a length that is known to be durable.
//!
//! Who writes it holds the system's lock on the file itself, from before anything is decided until
//! the handle is closed, by a crash too. Every refusal is decided before the first change. After a
//! failed write or sync nothing is written again: what the system still holds of it is not known,
//! and a second sync could say that all is well.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use piton_core::{Output as Choice, fault};

use super::identity::FileId;
use crate::sink::{Resume, SinkError};

/// How much is gathered before it is written.
const GATHERED: usize = 256 * 1024;

/// A file to be written.
pub(super) struct OutputFile {
    path: PathBuf,
    /// Open and locked.
    file: Option<File>,
    /// Gathered, and not yet written.
    buffer: Vec<u8>,
    /// The length of the file with what was written.
    written: u64,
    /// The length of it that is known to be durable.
    durable: Arc<AtomicU64>,
    /// Why it must not be written any more, known to every thread that writes or syncs.
    failed: Arc<OnceLock<String>>,
}

/// A sync that is still to be done.
pub(super) struct Sync {
    file: File,
    length: u64,
    path: PathBuf,
    durable: Arc<AtomicU64>,
    failed: Arc<OnceLock<String>>,
}

impl Sync {
    /// Makes what was written durable.
    pub(super) fn sync(self) -> Result<(), SinkError> {
        if let Some(what) = self.failed.get() {
            return Err(SinkError::Failed { what: what.clone() });
        }
        if self.durable.load(Ordering::Acquire) == self.length {
            return Ok(());
        }
        let synced = if fault::known_bad("skip_fsync") {
            Ok(())
        } else {
            fault::fail("file.sync").and_then(|()| self.file.sync_data())
        };
        match synced {
            Ok(()) => {
                self.durable.store(self.length, Ordering::Release);
                Ok(())
            }
            Err(error) => {
                let durable = self.durable.load(Ordering::Acquire);
                let what = told(&self.path, durable, "could not be made durable", &error);
                Err(SinkError::Failed { what: self.failed.get_or_init(|| what).clone() })
            }
        }
    }
}

/// Where writing is to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Begin {
    /// The length that stays.
    pub(super) at: u64,
    /// The length that the file has.
    length: u64,
    /// Whether what stays lacks the end of its last line.
    half_line: bool,
    /// Whether it is a copy, still to be made.
    pub(super) is_copied: bool,
}

impl OutputFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            file: None,
            buffer: Vec::new(),
            written: 0,
            durable: Arc::default(),
            failed: Arc::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The length of what is there now; 0 if nothing is.
    pub(super) fn present(&mut self) -> Result<u64, SinkError> {
        Ok(self.lock_existing()?.unwrap_or(0))
    }

    /// Decides where to begin, or every refusal, and changes nothing. `known` is the length that
    /// the checkpoint remembers.
    pub(super) fn decide(
        &mut self,
        resume: &Resume,
        known: Option<u64>,
    ) -> Result<Begin, SinkError> {
        self.check_place()?;
        let length = self.lock_existing()?;
        if let Some(known) = known.filter(|known| length.unwrap_or(0) < *known) {
            return Err(self.shorter(known, length));
        }
        let length = length.unwrap_or(0);
        let at = match (resume.output, known) {
            (Some(Choice::Truncate), known) => known.unwrap_or(0),
            (Some(Choice::Keep), _) => length,
            (None, Some(known)) => known,
            (None, None) if resume.adopt || length == 0 => length,
            (None, None) => return Err(self.foreign(length)),
        };
        let half_line = known != Some(at) && self.ends_in_half_line(at)?;
        Ok(Begin { at, length, half_line, is_copied: false })
    }

    /// Where to begin in a copy that is still to be made.
    pub(super) fn copied(&mut self, at: u64) -> Begin {
        self.file = None;
        Begin { at, length: u64::MAX, half_line: false, is_copied: true }
    }

    /// Makes the file begin there: creates it, or cuts off what is past its durable length.
    pub(super) fn begin(&mut self, begin: Begin) -> Result<(), SinkError> {
        if begin.is_copied {
            self.lock_existing()?;
        }
        let done = match self.file.take() {
            None => self.create(),
            Some(mut file) => cut(&mut file, begin).map(|()| file),
        };
        match done {
            Ok(file) => self.file = Some(file),
            Err(error) => return Err(self.fail("could not be prepared", &error)),
        }
        self.written = begin.at;
        self.durable.store(begin.at, Ordering::Release);
        self.buffer.clear();
        if begin.half_line {
            self.buffer.push(b'\n');
        }
        Ok(())
    }

    /// What is there, from the beginning, once the place was decided.
    pub(super) fn beginning(&mut self, most: u64) -> Result<Vec<u8>, SinkError> {
        let mut bytes = Vec::new();
        let Some(file) = &mut self.file else { return Ok(bytes) };
        let read = file.rewind().and_then(|()| file.take(most).read_to_end(&mut bytes));
        read.map_err(|error| self.fail("could not be read", &error))?;
        Ok(bytes)
    }

    /// Which file is written, where the system has such a thing.
    pub(super) fn id(&self) -> Option<FileId> {
        FileId::of(&self.file.as_ref()?.metadata().ok()?)
    }

    /// Lets go of the file.
    pub(super) fn close(&mut self) {
        self.file = None;
    }

    /// The length with everything that was gathered.
    pub(super) fn length(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Where rows are gathered. [`gathered`](Self::gathered) is called after each.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Writes what was gathered, if that is enough.
    pub(super) fn gathered(&mut self) -> Result<(), SinkError> {
        if self.buffer.len() < GATHERED { Ok(()) } else { self.write() }
    }

    /// Refuses to go on after a failure.
    pub(super) fn usable(&self) -> Result<(), SinkError> {
        match self.failed.get() {
            Some(what) => Err(SinkError::Failed { what: what.clone() }),
            None => Ok(()),
        }
    }

    /// Hands all that was gathered to the system. Returns its length, and what makes it durable:
    /// that may be run on another thread, while writing goes on.
    pub(super) fn sync(&mut self) -> Result<(u64, Sync), SinkError> {
        self.usable()?;
        self.write()?;
        self.still_there()?;
        let Some(file) = &self.file else { return Err(self.fail("is not open", &not_open())) };
        let file = file.try_clone();
        let file = file.map_err(|error| self.fail("could not be shared", &error))?;
        let sync = Sync {
            file,
            length: self.written,
            path: self.path.clone(),
            durable: Arc::clone(&self.durable),
            failed: Arc::clone(&self.failed),
        };
        Ok((self.written, sync))
    }

    fn write(&mut self) -> Result<(), SinkError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        // A file that was shortened meanwhile would get a hole here, and its length again.
        self.still_there()?;
        let Some(file) = &mut self.file else { return Err(self.fail("is not open", &not_open())) };
        // In two parts, so that the crash harness can strike between them, inside a line.
        let (first, rest) = self.buffer.split_at(self.buffer.len() / 2);
        let wrote = fault::fail("file.write").and_then(|()| file.write_all(first)).and_then(|()| {
            fault::point("sink.middle");
            file.write_all(rest)
        });
        wrote.map_err(|error| self.fail("could not be written", &error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Whoever else writes the file, shortens it or moves it away does not ask for the lock: what
    /// was written is then not what was meant, or not where it is looked for.
    fn still_there(&mut self) -> Result<(), SinkError> {
        let Some(file) = &self.file else { return Ok(()) };
        let length = file.metadata().map(|about| about.len());
        let what = match (length, is_at(file, &self.path)) {
            (Ok(length), Ok(true)) if length == self.written => return Ok(()),
            (Ok(length), Ok(true)) => format!(
                "has {length} bytes where {} were written: something else writes it",
                self.written
            ),
            (Ok(_), Ok(false)) => "was moved or replaced while it was written".to_owned(),
            (Err(error), _) | (_, Err(error)) => {
                return Err(self.fail("could not be looked at", &error));
            }
        };
        let what = format!(
            "{} {what}. Nothing since byte {} counts as written",
            self.path.display(),
            self.durable.load(Ordering::Acquire)
        );
        Err(SinkError::Failed { what: self.failed.get_or_init(|| what).clone() })
    }

    fn check_place(&self) -> Result<(), SinkError> {
        let settings = |what: String| Err(SinkError::Settings { what });
        let path = self.path.display();
        match fs::metadata(&self.path) {
            Ok(about) if about.is_file() => Ok(()),
            Ok(_) => settings(format!("{path} is not a regular file: name a file to be written")),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let folder = folder_of(&self.path);
                if folder.is_dir() {
                    return Ok(());
                }
                settings(format!(
                    "the folder {} of {path} does not exist: create it, or name another",
                    folder.display()
                ))
            }
            Err(error) => Err(SinkError::Failed { what: format!("{path}: {error}") }),
        }
    }

    /// Opens and locks the file if it exists, and tells its length.
    fn lock_existing(&mut self) -> Result<Option<u64>, SinkError> {
        let failed = |path: &Path, error: &io::Error| SinkError::Failed {
            what: format!("{} cannot be opened to be written: {error}", path.display()),
        };
        if self.file.is_none() {
            let file = match OpenOptions::new().read(true).write(true).open(&self.path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(failed(&self.path, &error)),
            };
            self.lock(&file)?;
            self.file = Some(file);
        }
        let length = self.file.as_ref().map(|file| file.metadata().map(|about| about.len()));
        length.transpose().map_err(|error| failed(&self.path, &error))
    }

    fn lock(&self, file: &File) -> Result<(), SinkError> {
        let path = self.path.display();
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(SinkError::Held {
                what: format!(
                    "{path} is being written by another run or another sink, which holds its lock: \
                     a file has one writer"
                ),
            }),
            Err(TryLockError::Error(error)) => {
                Err(SinkError::Failed { what: format!("{path} cannot be locked: {error}") })
            }
        }
    }

    fn create(&self) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&self.path)?;
        file.try_lock()?;
        file.sync_all()?;
        sync_folder(folder_of(&self.path))?;
        Ok(file)
    }

    fn ends_in_half_line(&mut self, length: u64) -> Result<bool, SinkError> {
        let (Some(file), Some(last)) = (&mut self.file, length.checked_sub(1)) else {
            return Ok(false);
        };
        let mut byte = [0];
        let read = file.seek(SeekFrom::Start(last)).and_then(|_| file.read_exact(&mut byte));
        read.map_err(|error| self.fail("could not be read", &error))?;
        Ok(byte != *b"\n")
    }

    fn shorter(&self, known: u64, length: Option<u64>) -> SinkError {
        let found = match length {
            Some(length) => format!("has {length} bytes"),
            None => "is gone".to_owned(),
        };
        SinkError::Refused {
            what: format!(
                "{} {found}, and its checkpoint says that {known} were written and durable: it was \
                 shortened, replaced or removed since. Put it back, or forget the progress with \
                 `piton reset` and write it anew",
                self.path.display()
            ),
        }
    }

    fn foreign(&self, length: u64) -> SinkError {
        SinkError::Refused {
            what: format!(
                "{} has {length} bytes already, and no checkpoint says that this pipeline wrote \
                 them. Name another file, move it away, or append to it with --adopt",
                self.path.display()
            ),
        }
    }

    /// Notes a failure: from now on nothing is written.
    fn fail(&mut self, what: &str, error: &io::Error) -> SinkError {
        let what = told(&self.path, self.durable.load(Ordering::Acquire), what, error);
        SinkError::Failed { what: self.failed.get_or_init(|| what).clone() }
    }
}

/// A failure as people are told of it.
fn told(path: &Path, durable: u64, what: &str, error: &io::Error) -> String {
    let path = path.display();
    let full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    if full {
        format!(
            "{path}: the disk is full. Everything up to byte {durable} is durable; make room \
             and run the same command again, and it goes on from there"
        )
    } else {
        format!(
            "{path} {what}: {error}. Everything up to byte {durable} is durable; when the \
             cause is mended, run the same command again"
        )
    }
}

/// Cuts off what is past the length that stays, durably, before anything is written there.
fn cut(file: &mut File, begin: Begin) -> io::Result<()> {
    if begin.length > begin.at {
        file.set_len(begin.at)?;
        file.sync_all()?;
    }
    file.seek(SeekFrom::Start(begin.at)).map(drop)
}

fn not_open() -> io::Error {
    io::Error::other("it was not opened")
}

pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a new name in a folder durable, where the system has such a thing.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Whether an open file is the one that the path names, as far as the system can tell.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    match fs::metadata(path) {
        Ok(named) => Ok(FileId::of(&file.metadata()?) == FileId::of(&named)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
