//! A file that is seen whole or not at all: written beside its place under a temporary name, and
//! renamed when all that belongs into it is durable. Until then a file that is there stays as it is.

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use piton_core::{Output as Choice, fault};

use super::{
    identity::FileId,
    output::{folder_of, sync_folder},
};
use crate::sink::{Resume, SinkError};

/// Where a file is to be when it is whole.
pub(super) struct Whole {
    target: PathBuf,
}

/// What a checkpoint remembers of the file that is being written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) length: u64,
    pub(super) id: Option<FileId>,
}

impl Whole {
    /// A file at that place; what a link there points to is replaced, and not the link.
    pub(super) fn at(target: PathBuf) -> Self {
        Self { target: fs::canonicalize(&target).unwrap_or(target) }
    }

    pub(super) fn target(&self) -> &Path {
        &self.target
    }

    /// The temporary name beside it.
    pub(super) fn part(&self) -> PathBuf {
        let name = self.target.file_name().unwrap_or_default().to_string_lossy();
        self.target.with_file_name(format!(".{name}.piton-part"))
    }

    /// Refuses to begin where something stands that nobody said may be replaced. `known`: what the
    /// checkpoint remembers.
    pub(super) fn check(&self, resume: &Resume, known: Option<Known>) -> Result<(), SinkError> {
        let target = self.target.display();
        let about = match fs::metadata(&self.target) {
            Ok(about) => Some(about),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(SinkError::Failed { what: format!("{target}: {error}") }),
        };
        if about.as_ref().is_some_and(|about| !about.is_file()) {
            let what = format!("{target} is not a regular file: name a file to be written");
            return Err(SinkError::Settings { what });
        }
        if resume.output == Some(Choice::Keep) {
            return Err(SinkError::Refused {
                what: format!(
                    "{target} is written anew as a whole, and cannot be kept and appended to: reset \
                     with --truncate, or name another file"
                ),
            });
        }
        let length = about.map_or(0, |about| about.len());
        if known.is_none() && length > 0 && !resume.adopt {
            return Err(SinkError::Refused {
                what: format!(
                    "{target} has {length} bytes already, and no checkpoint says that this pipeline \
                     wrote them. Name another file, move it away, or have it replaced once the new \
                     one is whole with --adopt"
                ),
            });
        }
        Ok(())
    }

    /// Whether what is known stands in its place already, under its own name.
    pub(super) fn is_in_place(&self, known: Known) -> bool {
        let in_part = fs::metadata(self.part()).map_or(0, |about| about.len());
        let id = |about: &fs::Metadata| FileId::of(about);
        in_part < known.length
            && fs::metadata(&self.target)
                .is_ok_and(|about| about.len() >= known.length && id(&about) == known.id)
    }

    /// Goes on in a copy of what stands in its place.
    pub(super) fn take_back(&self) -> Result<(), SinkError> {
        let copied = fs::copy(&self.target, self.part())
            .and_then(|_| File::open(self.part())?.sync_all())
            .and_then(|()| sync_folder(folder_of(&self.target)));
        copied.map_err(|error| self.failed("could not be copied", &error))
    }

    /// Puts what was written in its place, durably. All of it is durable already.
    pub(super) fn put_in_place(&self) -> Result<(), SinkError> {
        let put = self.keep_permissions().and_then(|()| {
            fault::point("sink.middle");
            fs::rename(self.part(), &self.target)
        });
        fault::point("sink.after");
        let put = put.and_then(|()| sync_folder(folder_of(&self.target)));
        put.map_err(|error| self.failed("could not be put in its place", &error))
    }

    fn keep_permissions(&self) -> io::Result<()> {
        match fs::metadata(&self.target) {
            Ok(about) => fs::set_permissions(self.part(), about.permissions()),
            Err(_) => Ok(()),
        }
    }

    fn failed(&self, what: &str, error: &io::Error) -> SinkError {
        let part = self.part();
        let what = format!(
            "{} {what}: {error}. What was written is in {}; when the cause is mended, run the same \
             command again",
            self.target.display(),
            part.display()
        );
        SinkError::Failed { what }
    }
}
