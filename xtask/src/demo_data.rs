//! Cuts `demo/flights.csv` from the full table, so that anybody can make it again.

use std::{
    fs::File,
    io::{BufRead, BufReader, BufWriter, Write},
    path::Path,
};

use crate::command::{Failure, root};

/// Half a minute at 1,500 rows a second.
const ROWS: usize = 45_000;

/// Writes `demo/flights.csv`.
pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    let [full] = args else {
        return Err(Failure::Usage(
            "demo-data needs the path of the full flights.csv; demo/README.md says where it is from"
                .to_owned(),
        ));
    };
    let from = Path::new(full);
    let to = root().join("demo/flights.csv");
    let input = BufReader::new(File::open(from).map_err(Failure::at(from))?);
    let output = BufWriter::new(File::create(&to).map_err(Failure::at(&to))?);
    let rows = cut(input, output, ROWS).map_err(Failure::at(from))?;
    println!("{}: {rows} rows", to.display());
    Ok(())
}

/// Copies the header and the first rows, with a number in front of each as its `id`. The table
/// has no quoted fields, so that a line is a row.
fn cut(input: impl BufRead, mut output: impl Write, rows: usize) -> std::io::Result<usize> {
    let mut written = 0;
    for (number, line) in input.lines().take(rows + 1).enumerate() {
        let line = line?;
        if number == 0 {
            writeln!(output, "id,{line}")?;
        } else {
            writeln!(output, "{number},{line}")?;
            written += 1;
        }
    }
    output.flush()?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::cut;

    #[test]
    fn rows_are_numbered_from_one_and_cut() {
        let mut out = Vec::new();
        let rows = cut("a,b\n1,2\n3,4\n5,6\n".as_bytes(), &mut out, 2).unwrap();
        assert_eq!((rows, out.as_slice()), (2, "id,a,b\n1,1,2\n2,3,4\n".as_bytes()));
    }
}
