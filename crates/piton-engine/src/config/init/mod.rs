//! `piton init`: a first configuration for a data file, with the options explained.
//!
//! It is a starting point that runs as it is. What is guessed (format, key) is said in a comment,
//! so that a wrong guess is seen.

mod sample;

use std::{fmt::Write as _, path::Path};

use crate::wording::count;

pub use self::sample::InitError;
use self::sample::{Format, Sample};

/// Writes a configuration for a data file: CSV or TSV, JSON lines, either compressed, or a SQLite
/// database. It reads the beginning of the file. The path stands in the configuration as it was
/// given, so the configuration belongs into the folder from which the path is right.
///
/// # Errors
/// The file cannot be read, or there is nothing in it to go by.
pub fn init(data: &Path) -> Result<String, InitError> {
    let sample = Sample::read(data)?;
    let name = stem(data);
    let mut out = format!(
        "# Reads {} into a SQLite database, each record exactly once.\n\
         # Lines that begin with '#' are options; the values shown are examples.\n\n\
         pipeline: {}\n\
         # store: sqlite:piton.db        # where checkpoints are kept\n\n",
        comment(&data.display().to_string()),
        scalar(&name),
    );
    if !sample.is_utf8 {
        out.push_str(
            "# The file is not UTF-8, and its records would be refused. Convert it first, for example:\n\
             #   iconv -f latin1 -t utf-8 OLD > NEW\n\n",
        );
    }
    source(&mut out, data, &sample);
    transforms(&mut out, &sample);
    sinks(&mut out, &name, &sample);
    out.push_str(
        "\n\
         # commit: required              # or all, or {quorum: 1}: which sinks the source waits for\n\
         # checkpoint: {max_replay: 10s, max_overhead: 1%}   # or {every: 5s, records: 10000}\n\
         # claim: {lease: 30s, when_held: exit}              # or wait, while another run holds it\n\
         # on_error: stop                # or dead_letter, or {retry: 5, then: dead_letter}\n\
         # limits: {record: 16MiB, memory: 256MiB}\n\
         # history: {keep: 30d}          # how long runs are remembered\n\
         # on_complete: keep             # or delete: the next run starts over\n",
    );
    Ok(out)
}

fn source(out: &mut String, data: &Path, sample: &Sample) {
    let path = scalar(&data.display().to_string());
    let lines = match &sample.format {
        Format::Csv { delimiter } => {
            let delimiter = match delimiter {
                b',' => {
                    "    # delimiter: \";\"              # what stands between fields\n".to_owned()
                }
                other => format!("    delimiter: {}\n", quoted(&char::from(*other).to_string())),
            };
            let is_number = |name: &String| name.trim().parse::<f64>().is_ok();
            let header = if sample.columns.iter().all(is_number) {
                "# header: [a, b, c]           # the first line looks like data: name its columns"
            } else {
                "# header: true                # or the names: [a, b, c]"
            };
            format!(
                "  csv:\n    path: {path}\n{delimiter}    {header}\n    \
                 # types: auto                 # guesses numbers; else every value is text\n    \
                 # null: \"\"                    # reads empty fields as null\n    \
                 # follow: true                # waits for more at the end\n"
            )
        }
        Format::Jsonl => format!(
            "  jsonl:\n    path: {path}\n    \
             # follow: true                # waits for more at the end\n"
        ),
        Format::Sqlite { tables } => {
            let mut lines =
                format!("  sql:\n    url: {}\n", scalar(&format!("sqlite:{}", data.display())));
            let others: Vec<&str> = tables.iter().skip(1).map(String::as_str).collect();
            let table = tables.first().map_or("", String::as_str);
            let also = if others.is_empty() {
                String::new()
            } else {
                format!("   # there are also: {}", comment(&others.join(", ")))
            };
            let _ = write!(
                lines,
                "    table: {}{also}\n    key: {}\n    \
                 # poll: 5s                    # looks for new rows, without an end\n",
                scalar(table),
                list(&sample.key),
            );
            lines
        }
    };
    let _ = write!(
        out,
        "source:\n{lines}  # rate: 5000/s                  # at most; spares what is read from\n"
    );
}

fn transforms(out: &mut String, sample: &Sample) {
    let mut some: Vec<String> = Vec::new();
    for column in &sample.columns {
        let fits = !column.is_empty() && column.len() <= 100 && !some.contains(column);
        if fits && some.len() < 3 {
            some.push(column.clone());
        }
    }
    let Some(first) = some.first() else { return };
    let is_word = first.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && first.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        && !["in", "true", "false", "null", "record", "math"].contains(&first.as_str());
    let filter = if is_word {
        format!("{first} != \"\"")
    } else {
        scalar(&format!("record[{}] != \"\"", quoted(first)))
    };
    let _ = write!(
        out,
        "\n# transform:                    # in this order\n\
         #   - filter: {filter}\n\
         #   - select: {}\n",
        list(&some),
    );
}

fn sinks(out: &mut String, name: &str, sample: &Sample) {
    let mut table = match &sample.format {
        Format::Sqlite { tables } => tables.first().map_or(name, String::as_str).to_owned(),
        _ => name.replace('-', "_"),
    };
    if ["piton_", "sqlite_"].iter().any(|own| table.to_ascii_lowercase().starts_with(own)) {
        table.insert_str(0, "data_");
    }
    let _ = write!(
        out,
        "\nsinks:\n  database:\n    sqlite:\n      path: out.db\n      table: {}\n",
        scalar(&table)
    );
    let _ = match (&sample.format, sample.key.as_slice()) {
        (_, []) => writeln!(
            out,
            "      mode: append              # with a column that tells records apart: upsert, and key: [it]"
        ),
        (Format::Sqlite { .. }, key) => {
            writeln!(out, "      mode: upsert\n      key: {}", list(key))
        }
        (_, key) => writeln!(
            out,
            "      mode: upsert\n      \
             # It differs in the first {} records. Of records with the same, the last one stays.\n      \
             key: {}",
            count(sample.rows as u64),
            list(key),
        ),
    };
    out.push_str("    # required: true              # false: may lag behind, is caught up later\n");
}

/// The pipeline's name: the file's, without extensions.
fn stem(data: &Path) -> String {
    let file = data.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = file.split('.').find(|part| !part.is_empty()).unwrap_or_default();
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let name: String = stem.chars().map(fits).take(60).collect();
    match name.trim_matches('-') {
        "" => "pipeline".to_owned(),
        name => name.to_owned(),
    }
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| scalar(item)).collect();
    format!("[{}]", items.join(", "))
}

/// A text as YAML, in quotes where it needs them.
fn scalar(text: &str) -> String {
    let plain =
        text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b':'))
            && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'/')
            && !text.ends_with(':')
            && !matches!(
                text.to_ascii_lowercase().as_str(),
                "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
            );
    if plain { text.to_owned() } else { quoted(text) }
}

/// A text in double quotes, `${` kept from being filled in.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.replace("${", "$${").chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            ' '..='~' | '\u{a0}'..='\u{1fff}' | '\u{3000}'..='\u{d7ff}' => out.push(c),
            other => {
                let _ = write!(out, "\\U{:08x}", u32::from(other));
            }
        }
    }
    out.push('"');
    out
}

/// A text inside a comment.
fn comment(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || c == '\u{2028}' || c == '\u{2029}' { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests;
