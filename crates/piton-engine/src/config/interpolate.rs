//! `${…}`: values from outside the file.
//!
//! | written | stands for |
//! |---|---|
//! | `${NAME}` | the environment variable; an error if it is not set |
//! | `${NAME:-default}` | the variable, or the default if it is not set or empty |
//! | `${file:/run/secrets/x}` | the content of a file, without blanks around it |
//! | `$${` | a literal `${` |
//! | `${record.id}`, any dotted name | left alone: a value at run time |
//!
//! They are filled into text after YAML has been parsed: whatever they hold, they cannot add a key
//! or end a string. Keys are left as they are.

use std::{fs::File, io::Read, path::Path};

use super::{
    error::{Condition, Place, Problem},
    tree::{Filled, Node, Text, Value, excerpt},
};

/// The most that `${file:…}` reads, in bytes.
const LARGEST_SECRET: u64 = 64 << 10;
/// What the name of a variable has if its value is nobody's business.
const SECRETIVE: &[&str] = &["PASS", "PWD", "SECRET", "TOKEN", "KEY", "AUTH", "CRED"];

/// Where values come from.
pub(super) struct Outside<'a> {
    /// The environment.
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    /// The folder against which `${file:…}` is resolved.
    pub(super) dir: &'a Path,
}

impl Outside<'_> {
    /// Fills in every text below a node, and notes what could not be.
    pub(super) fn fill(&self, node: &mut Node, problems: &mut Vec<Problem>) {
        let at = node.at;
        match &mut node.value {
            Value::Text(text) => {
                if let Err(problem) = self.fill_text(at, text) {
                    problems.push(problem);
                }
            }
            Value::List(items) => {
                for item in items {
                    self.fill(item, problems);
                }
            }
            Value::Map(entries) => {
                for (_, value) in entries {
                    self.fill(value, problems);
                }
            }
            Value::Null | Value::Bool(_) | Value::Int(..) | Value::Float(..) => {}
        }
    }

    fn fill_text(&self, at: Place, text: &mut Text) -> Result<(), Problem> {
        if !text.value.contains("${") {
            return Ok(());
        }
        let (mut out, mut rest) = (String::new(), text.value.as_str());
        let (mut filled, mut secret, mut live) = (false, false, Vec::new());
        while let Some(start) = rest.find("${") {
            if rest[..start].ends_with('$') {
                out.push_str(&rest[..start - 1]);
                out.push_str("${");
                rest = &rest[start + 2..];
                continue;
            }
            out.push_str(&rest[..start]);
            let written = &rest[start..];
            let problem = |what| Problem { at: place_of(at, &text.raw, written), what };
            let Some(end) = written.find('}') else {
                let why = "it is never closed; a literal ${ is written $${".to_owned();
                return Err(problem(Condition::Interpolation { text: excerpt(written), why }));
            };
            let (written, after) = written.split_at(end + 1);
            let value = self.value(&written[2..end]).map_err(problem)?;
            match value {
                Some(value) => {
                    filled = true;
                    secret |= value.secret;
                    out.push_str(&value.text);
                }
                None => {
                    live.push(out.len()..out.len() + written.len());
                    out.push_str(written);
                }
            }
            rest = after;
        }
        out.push_str(rest);
        // An address with a user in it usually has the password, too.
        secret |= filled && out.contains("://") && out.contains('@');
        let written = std::mem::replace(&mut text.value, out);
        text.live = live;
        text.filled = filled.then_some(Filled { written, secret });
        Ok(())
    }

    /// The value of what stands between the braces; `None` if it is one for the run.
    fn value(&self, inner: &str) -> Result<Option<Outer>, Condition> {
        let wrong = |why: &str| Condition::Interpolation {
            text: format!("${{{}}}", excerpt(inner)),
            why: why.to_owned(),
        };
        if let Some(path) = inner.strip_prefix("file:") {
            let text = self.secret(path).map_err(|why| wrong(&why))?;
            return Ok(Some(Outer { text, secret: true }));
        }
        let (name, default) = match inner.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inner, None),
        };
        if default.is_some_and(|default| default.contains("${")) {
            return Err(wrong("a default is plain text, without another ${…} in it"));
        }
        if !is_name(name) {
            let dotted = name.split('.').count() > 1 && name.split('.').all(is_name);
            return if dotted && default.is_none() {
                Ok(None)
            } else {
                Err(wrong("write ${NAME}, ${NAME:-default} or ${file:PATH}; a literal ${ is $${"))
            };
        }
        let upper = name.to_ascii_uppercase();
        let secret = SECRETIVE.iter().any(|word| upper.contains(word));
        let value = (self.env)(name).filter(|value| default.is_none() || !value.is_empty());
        match (value, default) {
            (Some(text), _) => Ok(Some(Outer { text, secret })),
            (None, Some(default)) => Ok(Some(Outer { text: default.to_owned(), secret: false })),
            (None, None) => Err(Condition::Unset { name: name.to_owned() }),
        }
    }

    fn secret(&self, path: &str) -> Result<String, String> {
        let path = self.dir.join(path.trim());
        let mut text = String::new();
        let file = File::open(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        let read = file.take(LARGEST_SECRET + 1).read_to_string(&mut text);
        read.map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        if text.len() as u64 > LARGEST_SECRET {
            return Err(format!("{} is larger than {LARGEST_SECRET} bytes", path.display()));
        }
        Ok(text.trim().to_owned())
    }
}

/// A value from outside.
struct Outer {
    text: String,
    secret: bool,
}

pub(super) fn is_name(text: &str) -> bool {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    first && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Where a part of a text stands in the file.
pub(super) fn place_of(at: Place, raw: &str, part: &str) -> Place {
    let line = part.lines().next().unwrap_or_default();
    let Some(start) = raw.find(line) else { return at };
    let before = &raw[..start];
    let lines = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count();
    match lines {
        0 => Place { line: at.line, column: at.column + column },
        _ => Place { line: at.line + lines, column: column + 1 },
    }
}
