//! What CSV to JSONL is compared with: the csv crate and `serde_json`, no tree in between, no
//! checkpoints, one sync at the end.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use serde::{Serialize, Serializer};

use crate::command::Failure;

/// `baseline-csv-jsonl IN OUT`.
pub(super) fn main(args: &[&str]) -> Result<(), Failure> {
    let [input, output] = args else {
        return Err(Failure::Usage("baseline-csv-jsonl IN OUT".to_owned()));
    };
    copy(Path::new(input), Path::new(output)).map_err(|error| Failure::Found(error.to_string()))
}

struct Row<'a> {
    columns: &'a csv::StringRecord,
    values: &'a csv::StringRecord,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.columns.iter().zip(self.values))
    }
}

fn copy(input: &Path, output: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut reader = csv::Reader::from_path(input)?;
    let columns = reader.headers()?.clone();
    let mut out = BufWriter::with_capacity(1 << 16, File::create(output)?);
    let mut values = csv::StringRecord::new();
    while reader.read_record(&mut values)? {
        serde_json::to_writer(&mut out, &Row { columns: &columns, values: &values })?;
        out.write_all(b"\n")?;
    }
    out.into_inner()?.sync_data()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_row_is_a_line() {
        let folder = tempfile::tempdir().unwrap();
        let (input, output) = (folder.path().join("in.csv"), folder.path().join("out.jsonl"));
        std::fs::write(&input, "id,a\n1,x\n2,\"y\"\"\"\n").unwrap();
        super::copy(&input, &output).unwrap();
        let text = std::fs::read_to_string(&output).unwrap();
        assert_eq!(text, "{\"id\":\"1\",\"a\":\"x\"}\n{\"id\":\"2\",\"a\":\"y\\\"\"}\n");
    }
}
