//! Opening a file and taking the compression off.

use std::{
    fs::File,
    io::{self, BufReader, Cursor, Read, Seek},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;

use super::settings::Compression;
use crate::source::SourceError;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A stream of records' bytes.
pub(super) enum Input {
    /// A file as it stands: it can be sought in, and it may grow.
    Plain(File),
    /// A file that is decompressed as it is read.
    Packed(Box<dyn Read + Send>),
    /// Text from elsewhere.
    Text(Cursor<Vec<u8>>),
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Packed(stream) => stream.read(buffer),
            Self::Text(text) => text.read(buffer),
        }
    }
}

impl Input {
    /// A file from its beginning.
    pub(super) fn of(mut file: File, compression: Compression) -> io::Result<Self> {
        file.rewind()?;
        Ok(match packing(&mut file, compression)? {
            Compression::Gzip => {
                Self::Packed(Box::new(MultiGzDecoder::new(BufReader::with_capacity(65536, file))))
            }
            Compression::Zstd => Self::Packed(Box::new(zstd::Decoder::new(file)?)),
            Compression::Auto | Compression::None => Self::Plain(file),
        })
    }
}

/// Opens what must be a regular file: anything else cannot be read again from a position.
pub(super) fn open(path: &Path) -> Result<File, SourceError> {
    let io = |error| SourceError::Io { path: path.to_owned(), error };
    let about = std::fs::metadata(path).map_err(io)?;
    if !about.is_file() {
        return Err(SourceError::Settings {
            what: format!(
                "{} is not a regular file: only a file can be read again from a position. \
                 For the files of a folder write `{}`",
                path.display(),
                path.join("*").display()
            ),
        });
    }
    File::open(path).map_err(io)
}

/// How a file is compressed, by its first bytes unless that is settled.
fn packing(file: &mut File, compression: Compression) -> io::Result<Compression> {
    if compression != Compression::Auto {
        return Ok(compression);
    }
    let mut magic = Vec::with_capacity(ZSTD.len());
    file.by_ref().take(ZSTD.len() as u64).read_to_end(&mut magic)?;
    file.rewind()?;
    Ok(if magic.starts_with(&GZIP) {
        Compression::Gzip
    } else if magic.starts_with(&ZSTD) {
        Compression::Zstd
    } else {
        Compression::None
    })
}

/// Whether a file is read as it stands, so that sizes and offsets can be compared.
pub(super) fn is_plain(path: &Path, compression: Compression) -> bool {
    let Ok(mut file) = File::open(path) else { return compression == Compression::None };
    matches!(packing(&mut file, compression), Ok(Compression::None))
}
