//! How things look: aligned tables, short times, numbers with separators, JSON.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind},
};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};
pub(crate) use piton_engine::wording::{count, many, records, span};
use serde::Serialize;

use crate::outlet;

/// Tells a person something on standard error. Work goes on when nobody listens any more, which
/// `eprintln!` would panic at.
macro_rules! note {
    ($($arg:tt)*) => {{
        let line = format!($($arg)*) + "\n";
        let _ = crate::outlet::write_all(std::io::stderr(), line.as_bytes());
    }};
}
pub(crate) use note;

/// Prints to standard output. A reader that has gone, as `head` does, has seen enough.
pub(crate) fn show(text: impl AsRef<[u8]>) -> io::Result<()> {
    match outlet::write_all(io::stdout(), text.as_ref()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Prints a value as one JSON document.
pub(crate) fn print_json(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    show(text)
}

/// Prints a value as one line of JSON.
pub(crate) fn print_json_line(value: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    show(text)
}

/// A table without lines; the columns in `right` are aligned to the right.
pub(crate) fn table(head: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|word| word.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let mut text = String::new();
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// The first sentence of an error, for tables; `status NAME` and `--json` have all of it.
pub(crate) fn first_sentence(text: &str) -> &str {
    text.split_once(". ").map_or(text, |(first, _)| first)
}
