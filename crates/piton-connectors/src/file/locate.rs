//! Where the file now is that a position was taken in: at its path, or under the name that a
//! rotation gave it.
//!
//! The system's identity of the file decides where it can; else what was consumed decides, and only
//! if just one file has it. Whatever is not certain is a gap.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use super::{
    identity::FileId,
    input,
    position::FilePosition,
    resume::{self, Check, Place, Refusal},
    rotation::{Sibling, siblings},
    settings::Compression,
    window::Window,
};
use crate::source::SourceError;

/// A file in which reading can go on.
pub(super) struct Located {
    pub(super) window: Window,
    pub(super) path: PathBuf,
    pub(super) id: Option<FileId>,
}

/// Finds the file of a position, and opens it there.
pub(super) fn locate(
    place: &Place<'_>,
    position: &FilePosition,
    check: Check,
) -> Result<Located, SourceError> {
    let here = fs::metadata(place.path).ok();
    let here_id = here.as_ref().and_then(FileId::of);
    let same = here.is_some() && (position.file.is_none() || position.file == here_id);
    let mut why = None;
    if same {
        match go_on(place, place.path, place.compression, position, check) {
            Ok(located) => return Ok(located),
            Err(Refusal::Io(error)) => return Err(Refusal::Io(error).at(place, position)),
            Err(Refusal::Changed(what) | Refusal::Shortened(what)) => why = Some(what),
        }
    }
    let io = |error| SourceError::Io { path: place.path.to_owned(), error };
    let siblings = siblings(place.path).map_err(io)?;
    let renamed = siblings.iter().find(|s| s.id.is_some() && s.id == position.file);
    if let Some(located) =
        renamed.and_then(|s| go_on(place, &s.path, Compression::Auto, position, check).ok())
    {
        return Ok(located);
    }
    let mut candidates: Vec<&Path> = siblings.iter().map(|s| s.path.as_path()).collect();
    candidates.extend((here.is_some() && !same).then_some(place.path));
    if let Some(located) = by_content(place, candidates, position, check)? {
        return Ok(located);
    }
    let why = why.unwrap_or_else(|| "the file is gone from its path".to_owned());
    let what = format!("{why}, and no file beside it is the one that was read");
    Err(resume::gap(place.partition, position, &what, true))
}

/// The copies of a file that was cut while it was read.
pub(super) fn copy_of(
    place: &Place<'_>,
    position: &FilePosition,
    among: &[Sibling],
) -> Result<Option<Located>, SourceError> {
    let candidates = among.iter().map(|sibling| sibling.path.as_path()).collect();
    by_content(place, candidates, position, Check::Ends)
}

/// The one file that has what was consumed; one that is not compressed rather than one that is.
fn by_content(
    place: &Place<'_>,
    mut candidates: Vec<&Path>,
    position: &FilePosition,
    check: Check,
) -> Result<Option<Located>, SourceError> {
    if position.offset == 0 {
        return Ok(None);
    }
    candidates.sort_by_key(|path| !input::is_plain(path, Compression::Auto));
    let mut found: Option<Located> = None;
    for path in candidates {
        let plain = input::is_plain(path, Compression::Auto);
        if !plain && found.is_some() {
            break;
        }
        let Ok(located) = go_on(place, path, Compression::Auto, position, check) else { continue };
        if let Some(first) = &found {
            let what = format!(
                "{} and {} both begin with what was read, and it is not known which was",
                first.path.display(),
                path.display()
            );
            return Err(resume::gap(place.partition, position, &what, true));
        }
        found = Some(located);
    }
    Ok(found)
}

fn go_on(
    place: &Place<'_>,
    path: &Path,
    compression: Compression,
    position: &FilePosition,
    check: Check,
) -> Result<Located, Refusal> {
    let file = match input::open(path) {
        Ok(file) => file,
        Err(SourceError::Io { error, .. }) if error.kind() != ErrorKind::NotFound => {
            return Err(Refusal::Io(error));
        }
        Err(_) => return Err(Refusal::Changed("the file is gone".to_owned())),
    };
    let id = FileId::of(&file.metadata()?);
    let place = Place { path, compression, ..*place };
    let window = resume::resume(&place, file, position, check)?;
    Ok(Located { window, path: path.to_owned(), id })
}
