//! The source `csv` or `jsonl`: one file, or each file that a glob names.

use std::{
    collections::HashSet,
    fs::File,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
};

use piton_core::{PositionOrder, position::order_of};
use serde_json::json;

use super::{
    columns::CsvPlan,
    fingerprint::Fingerprinter,
    follow::{FollowReader, Times},
    input::{self, Input},
    jsonl::Jsonl,
    locate::{Located, locate},
    partition::{Format, Found, Partition},
    paths,
    position::{FilePosition, Guessed},
    reader::FileReader,
    record::is_abridged,
    resume::{self, Check, Place},
    settings::{Compression, FileSettings, Header, Types},
    window::Window,
};
use crate::{
    batch::Batch,
    source::{Read, Reader, Source, SourceError, Start},
};

/// The largest record limit: a batch counts its text in 32 bits.
const MOST_RECORD: u64 = 1 << 30;

/// Reads files of CSV or JSON lines.
#[derive(Debug, Clone)]
pub struct FileSource {
    pub(super) settings: FileSettings,
    /// `None` for JSON lines.
    pub(super) csv: Option<CsvPlan>,
    pub(super) base: PathBuf,
    pub(super) limit: usize,
    pub(super) accept: bool,
}

impl FileSource {
    /// A source for these settings. Paths are relative to `base`; a record of more than
    /// `record_limit` bytes is a bad record.
    ///
    /// # Errors
    /// [`SourceError::Settings`] when they cannot work.
    pub fn new(
        settings: impl Into<FileSettings>,
        base: &Path,
        record_limit: u64,
    ) -> Result<Self, SourceError> {
        let settings = settings.into();
        let wrong = |what: &str| Err(SourceError::Settings { what: what.to_owned() });
        if settings.path().is_empty() {
            return wrong("path: it is empty");
        }
        if settings.follow()
            && matches!(settings.compression(), Compression::Gzip | Compression::Zstd)
        {
            return wrong(
                "follow: a compressed file cannot be followed; follow it before it is compressed",
            );
        }
        if record_limit == 0 || record_limit > MOST_RECORD {
            return wrong("limits: record: it must be from 1 byte to 1 GiB");
        }
        let limit = record_limit as usize;
        let csv = match &settings {
            FileSettings::Csv(csv) => Some(CsvPlan::new(csv, limit)?),
            FileSettings::Jsonl(_) => None,
        };
        Ok(Self { settings, csv, base: base.to_owned(), limit, accept: false })
    }

    /// The same source for an operator who accepts that consumed files were changed
    /// (`--accept-changes`): reading goes on at the stored offset of the file as it is now, with
    /// the next whole line. A file that has become shorter than that is refused all the same.
    #[must_use]
    pub fn accepting_changes(mut self, accept: bool) -> Self {
        self.accept = accept;
        self
    }

    pub(super) fn find(&self) -> Result<Vec<Found>, SourceError> {
        if self.settings.follow() {
            return paths::find_followed(self.settings.path(), &self.base);
        }
        paths::find(self.settings.path(), &self.base)
    }

    /// Whether a partition is one that the path names. Those of another path, which an operator has
    /// accepted as changed, are over.
    pub(super) fn names(&self, partition: &str) -> bool {
        paths::names(self.settings.path(), &self.base, partition)
    }

    pub(super) fn accepts_changes(&self) -> bool {
        self.accept
    }

    pub(super) fn compression(&self) -> Compression {
        self.settings.compression()
    }

    fn check(&self, thorough: bool) -> Check {
        match (self.accept, thorough) {
            (true, _) => Check::Accept,
            (false, true) => Check::All,
            (false, false) => Check::Ends,
        }
    }

    fn place<'a>(&self, found: &'a Found) -> Place<'a> {
        Place {
            partition: &found.name,
            path: &found.path,
            compression: self.settings.compression(),
            limit: self.limit,
        }
    }

    /// The place of a file that is followed: it is not compressed.
    pub(super) fn followed<'a>(&self, found: &'a Found) -> Place<'a> {
        Place { compression: Compression::None, ..self.place(found) }
    }

    /// Where the file is now in which a position was taken, through rotations.
    pub(super) fn locate(
        &self,
        found: &Found,
        position: &FilePosition,
        thorough: bool,
    ) -> Result<Located, SourceError> {
        let check = if thorough { Check::All } else { Check::Ends };
        locate(&self.followed(found), position, check)
    }

    /// A window over a file's beginning.
    pub(super) fn beginning(&self, path: &Path) -> Result<Window, SourceError> {
        self.window_of(input::open(path)?, path, self.settings.compression())
    }

    /// A window over the beginning of an open file.
    pub(super) fn window_of(
        &self,
        file: File,
        path: &Path,
        compression: Compression,
    ) -> Result<Window, SourceError> {
        let input = Input::of(file, compression)
            .map_err(|error| SourceError::Io { path: path.to_owned(), error })?;
        Ok(Window::new(input, path.to_owned(), Fingerprinter::new(), 1, self.limit))
    }

    /// A window over a file at a position.
    fn window(
        &self,
        found: &Found,
        position: Option<&FilePosition>,
        check: Check,
    ) -> Result<Window, SourceError> {
        match position {
            None => self.beginning(&found.path),
            Some(position) if !found.path.exists() => {
                Err(resume::gap(&found.name, position, "the file is gone", true))
            }
            Some(position) => {
                resume::open(&self.place(found), input::open(&found.path)?, position, check)
            }
        }
    }

    /// Opens a file at a position, ready to be read to its end.
    pub(super) fn open(
        &self,
        found: &Found,
        position: Option<&FilePosition>,
        guessed: Option<&Guessed>,
    ) -> Result<Option<Partition>, SourceError> {
        let window = self.window(found, position, self.check(false))?;
        let mut partition = self.partition(found, window, guessed)?;
        if let (Some(partition), Some(position)) = (&mut partition, position) {
            partition.rotation = position.rotation;
        }
        Ok(partition)
    }

    /// A partition that reads from a window. `None` if the columns are not known yet: the header
    /// has not come, or no row to guess types from.
    pub(super) fn partition(
        &self,
        found: &Found,
        mut window: Window,
        guessed: Option<&Guessed>,
    ) -> Result<Option<Partition>, SourceError> {
        let format = match &self.csv {
            None => Format::Jsonl(Jsonl::new(self.limit)),
            Some(csv) if csv.types == Types::Auto && guessed.is_none() => return Ok(None),
            Some(csv) => {
                let names = if window.offset() == 0 {
                    csv.names(&mut window, &found.name)?
                } else {
                    // A generation that was rotated away may be compressed where the next is not.
                    let follow = self.settings.follow();
                    let packing = if follow { Compression::Auto } else { self.compression() };
                    let mut header =
                        self.window_of(input::open(&found.path)?, &found.path, packing)?;
                    csv.names(&mut header, &found.name)?
                };
                let Some(names) = names else { return Ok(None) };
                Format::Csv(Box::new(csv.csv(names, guessed)))
            }
        };
        let mut partition = Partition::new(Arc::clone(&found.name), window, format);
        partition.types = guessed.cloned();
        Ok(Some(partition))
    }

    /// The column types that all files are read with: those that were guessed before, or a guess
    /// from the first file that has rows.
    pub(super) fn guess(
        &self,
        found: &[Found],
        positions: &[(String, FilePosition)],
    ) -> Result<Option<Guessed>, SourceError> {
        let Some(csv) = self.csv.as_ref().filter(|csv| csv.types == Types::Auto) else {
            return Ok(None);
        };
        if let Some(known) = positions.iter().find_map(|(_, position)| position.types.clone()) {
            return Ok(Some(known));
        }
        for found in found {
            let follow = self.settings.follow();
            let mut window = self.beginning(&found.path)?.growing(follow);
            if let Some(guessed) = csv.guess(&mut window, &found.name)? {
                return Ok(Some(guessed));
            }
        }
        Ok(None)
    }

    /// Refuses types for columns that no file has.
    pub(super) fn check_types(&self, found: &[Found]) -> Result<(), SourceError> {
        let Some(csv) = &self.csv else { return Ok(()) };
        let mut names = HashSet::new();
        let mut unknown = csv.unknown_types(&names);
        for found in found {
            if unknown.is_empty() {
                break;
            }
            let mut window = self.beginning(&found.path)?;
            names.extend(csv.names(&mut window, &found.name)?.unwrap_or_default());
            unknown = csv.unknown_types(&names);
        }
        match unknown.first() {
            Some(unknown) if !names.is_empty() => {
                let mut names: Vec<_> = names.iter().map(|name| &**name).collect();
                names.sort_unstable();
                Err(SourceError::Settings {
                    what: format!(
                        "types: there is no column '{unknown}' in {}: the columns are {}",
                        self.settings.path(),
                        names.join(", ")
                    ),
                })
            }
            _ => Ok(()),
        }
    }
}

/// The stored positions, by partition.
pub(super) fn positions(starts: &[Start]) -> Result<Vec<(String, FilePosition)>, SourceError> {
    let mut positions = Vec::new();
    for start in starts {
        if let Some(stored) = &start.position {
            positions.push((start.partition.clone(), FilePosition::restore(stored)?));
        }
    }
    Ok(positions)
}

impl Source for FileSource {
    fn kind(&self) -> &'static str {
        if self.csv.is_some() { "csv" } else { "jsonl" }
    }

    fn identity(&self) -> serde_json::Value {
        let mut identity = json!({"path": self.settings.path()});
        if let FileSettings::Csv(csv) = &self.settings {
            identity["delimiter"] = json!(csv.delimiter);
            identity["quote"] = json!(csv.quote);
            identity["header"] = match &csv.header {
                Header::InFile => json!(true),
                Header::Names(names) => json!(names),
            };
        }
        match self.settings.compression() {
            Compression::Auto => {}
            Compression::None => identity["compression"] = json!("none"),
            Compression::Gzip => identity["compression"] = json!("gzip"),
            Compression::Zstd => identity["compression"] = json!("zstd"),
        }
        json!({self.kind(): identity})
    }

    fn order(&self) -> PositionOrder {
        order_of::<FilePosition>
    }

    fn is_bounded(&self) -> bool {
        !self.settings.follow()
    }

    fn partitions(&self) -> Result<Vec<String>, SourceError> {
        let found = self.find()?;
        if found.is_empty() && !(self.settings.follow() && paths::is_glob(self.settings.path())) {
            let what = format!("{} (in {})", self.settings.path(), self.base.display());
            return Err(SourceError::Missing { what });
        }
        Ok(found.into_iter().map(|found| found.name.to_string()).collect())
    }

    fn verify(&self, start: &Start, thorough: bool) -> Result<(), SourceError> {
        let Some(stored) = &start.position else { return Ok(()) };
        let position = FilePosition::restore(stored)?;
        if !self.names(&start.partition) {
            return Ok(());
        }
        let found = self.found(&start.partition);
        if self.settings.follow() {
            return match self.locate(&found, &position, thorough) {
                Err(SourceError::Gap { .. }) if self.accept => Ok(()),
                located => located.map(drop),
            };
        }
        if self.accept && !found.path.exists() {
            return Ok(());
        }
        self.window(&found, Some(&position), self.check(thorough)).map(drop)
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        let positions = positions(starts)?;
        if self.settings.follow() {
            if positions.is_empty() {
                self.partitions()?;
            }
            let reader = FollowReader::new(self.clone(), &positions, Times::default())?;
            return Ok(Box::new(reader));
        }
        let reader = FileReader::new(self.clone(), &positions)?;
        self.partitions()?;
        Ok(Box::new(reader))
    }

    fn progress(&self, starts: &[Start]) -> Option<(u64, u64)> {
        let positions = positions(starts).ok()?;
        let (mut total, mut consumed) = (0, 0);
        for found in self.find().ok()? {
            if !input::is_plain(&found.path, self.settings.compression()) {
                return None;
            }
            let size = std::fs::metadata(&found.path).ok()?.len();
            let position = positions.iter().find(|(name, _)| **name == *found.name);
            total += size;
            consumed += position.map_or(0, |(_, position)| position.offset.min(size));
        }
        Some((consumed, total))
    }

    fn parse(&self, partition: &str, raw: &str) -> Result<Batch, SourceError> {
        if is_abridged(raw) {
            let what = format!(
                "{partition}: only the beginning of this record was kept; it cannot be read from that"
            );
            return Err(SourceError::Failed { what });
        }
        let Some(csv) = &self.csv else { return self.parse_json(partition, raw) };
        let path = self.found(partition).path;
        let names = csv.names(&mut self.beginning(&path)?, partition)?;
        let guessed = self.guess(&self.find()?, &[])?;
        let csv = csv.csv(names.unwrap_or_default(), guessed.as_ref());
        self.parse_as(Format::Csv(Box::new(csv)), partition, raw)
    }

    fn parse_json(&self, partition: &str, json: &str) -> Result<Batch, SourceError> {
        self.parse_as(Format::Jsonl(Jsonl::new(self.limit)), partition, json)
    }
}

impl FileSource {
    /// The one record in a text.
    fn parse_as(&self, format: Format, partition: &str, raw: &str) -> Result<Batch, SourceError> {
        let failed = |what: String| SourceError::Failed { what };
        let found = self.found(partition);
        let text = Input::Text(Cursor::new(raw.as_bytes().to_vec()));
        let window = Window::new(text, found.path, Fingerprinter::new(), 1, self.limit);
        let mut one = Partition::new(found.name, window, format);
        match (one.read(1)?, one.read(1)?) {
            (Some(Read::Batch(batch)), None) => Ok(batch),
            (Some(Read::Bad(bad)), _) => Err(failed(format!("{partition}: {}", bad.reason))),
            (None, _) => Err(failed(format!("{partition}: there is no record in this text"))),
            _ => Err(failed(format!("{partition}: this text has more than one record"))),
        }
    }

    pub(super) fn found(&self, partition: &str) -> Found {
        Found { name: partition.into(), path: self.base.join(partition) }
    }
}
