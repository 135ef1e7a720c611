//! Statements of SQL: where in them a value may stand.
//!
//! A value is bound as a parameter, and a database takes one only where an expression can stand.
//! Within quotes it would be text that happens to look like a reference, within a comment nothing
//! at all; both are errors here, instead of surprises in the database. That needs no parser, only
//! to know what is quoted, which is the same in all statements of one database.

use std::ops::Range;

use super::references::{Scope, found, pieces, problem};
use crate::{
    config::{
        error::{Condition, Problem},
        tree::{Node, Text},
    },
    job::definition::{Piece, Placeholders, Statement},
};

/// Reads a statement.
pub(super) fn statement(
    node: &Node,
    text: &Text,
    system: Placeholders,
    scope: Scope<'_>,
    problems: &mut Vec<Problem>,
) -> Statement {
    let references = found(node, text, scope, problems);
    let seen = Scan { text: text.value.as_bytes(), system, live: &text.live }.all();
    for found in &references {
        if let Some((_, within)) = seen.within.iter().find(|(start, _)| *start == found.at.start) {
            let why = within.why(found.written);
            problems.push(problem(node, text, found.written, why));
        }
    }
    for (offset, why) in seen.faults {
        let before = &text.value[..offset];
        let line = 1 + before.matches('\n').count();
        let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
        let what = Condition::Expression { path: String::new(), why };
        problems.push(Problem { at: node.place_in_text(line, column), what });
    }
    Statement { pieces: ended(pieces(&text.value, references)), at: node.at }
}

/// Without the semicolon at its end.
fn ended(mut pieces: Vec<Piece>) -> Vec<Piece> {
    if let Some(Piece::Text(last)) = pieces.last_mut() {
        let end = last.trim_end().trim_end_matches(';').trim_end().len();
        last.truncate(end);
    }
    pieces
}

/// What a part of a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Within {
    /// Text in quotes.
    Text,
    /// A name in quotes.
    Name,
    Comment,
    /// `$$…$$`.
    Dollars,
}

impl Within {
    fn why(self, written: &str) -> String {
        match self {
            Self::Text => format!(
                "stands in quotes, where it would be no value: drop the quotes, {written} is bound \
                 as a parameter"
            ),
            Self::Name => {
                "stands in a quoted name: a value is bound as a parameter, and cannot be \
                           a name"
                    .to_owned()
            }
            Self::Comment => "stands in a comment: take it out".to_owned(),
            Self::Dollars => "stands in a text between dollars: a value is bound as a parameter, \
                              and cannot be in there"
                .to_owned(),
        }
    }
}

/// What was seen of a statement.
#[derive(Default)]
struct Seen {
    /// The references that stand where none can, by their beginnings.
    within: Vec<(usize, Within)>,
    /// What else is wrong, and at which byte.
    faults: Vec<(usize, String)>,
}

struct Scan<'a> {
    text: &'a [u8],
    system: Placeholders,
    /// Where references stand.
    live: &'a [Range<usize>],
}

impl Scan<'_> {
    fn all(&self) -> Seen {
        let mut seen = Seen::default();
        self.begins(&mut seen);
        let (mut at, mut ended) = (0, None);
        while at < self.text.len() {
            if let Some(end) = self.live_at(at) {
                at = end;
                continue;
            }
            if let Some((within, end)) = self.quoted(at, &mut seen) {
                let inside = self.live[self.first_live(at)..self.first_live(end)].iter();
                seen.within.extend(inside.map(|range| (range.start, within)));
                at = end;
                continue;
            }
            let byte = self.text[at];
            if let Some(semicolon) = ended
                && !byte.is_ascii_whitespace()
                && byte != b';'
                && !self.may_hold_semicolons()
            {
                let why = "the statement holds several: write `statements: [one, another]`";
                seen.faults.push((semicolon, why.to_owned()));
                return seen;
            }
            if byte == b';' && ended.is_none() {
                ended = Some(at);
            }
            self.bare_parameter(at, &mut seen);
            at += 1;
        }
        seen
    }

    fn live_at(&self, at: usize) -> Option<usize> {
        self.live.get(self.first_live(at)).filter(|range| range.start == at).map(|range| range.end)
    }

    /// The first reference that does not begin before a place.
    fn first_live(&self, at: usize) -> usize {
        self.live.partition_point(|range| range.start < at)
    }

    fn first_word(&self) -> String {
        let text = self.text.trim_ascii_start();
        let end = text.iter().position(|b| !b.is_ascii_alphabetic()).unwrap_or(text.len());
        String::from_utf8_lossy(&text[..end]).to_ascii_uppercase()
    }

    /// The body of a trigger or procedure has statements in it.
    fn may_hold_semicolons(&self) -> bool {
        self.first_word() == "CREATE"
    }

    fn begins(&self, seen: &mut Seen) {
        let word = self.first_word();
        let blank = self.text.len() - self.text.trim_ascii_start().len();
        if blank == self.text.len() || self.text.trim_ascii() == b";" {
            seen.faults.push((0, "the statement is empty".to_owned()));
        }
        let steers =
            ["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"];
        if steers.contains(&word.as_str()) {
            let why = format!(
                "the statement steers a transaction ({word}): its statements are in one already"
            );
            seen.faults.push((blank, why));
        }
    }

    /// What is quoted from here on, and where it ends.
    fn quoted(&self, at: usize, seen: &mut Seen) -> Option<(Within, usize)> {
        let rest = &self.text[at..];
        let is_mysql = self.system == Placeholders::Bare;
        match rest {
            [b'\'', ..] => {
                let before = at.checked_sub(1).map(|before| self.text[before]);
                let escapes =
                    is_mysql || matches!(before, Some(b'E' | b'e')) && self.is_word_of_one(at - 1);
                Some((Within::Text, self.after_quote(at, b'\'', escapes, seen)))
            }
            [b'"', ..] if is_mysql => Some((Within::Text, self.after_quote(at, b'"', true, seen))),
            [b'"', ..] => Some((Within::Name, self.after_quote(at, b'"', false, seen))),
            [b'`', ..] if self.system != Placeholders::Dollar => {
                Some((Within::Name, self.after_quote(at, b'`', false, seen)))
            }
            [b'[', ..] if self.system == Placeholders::Question => {
                let end =
                    rest.iter().position(|b| *b == b']').map_or(self.text.len(), |n| at + n + 1);
                Some((Within::Name, end))
            }
            // MySQL takes two dashes for a comment only before a blank.
            [b'-', b'-', after, ..] if is_mysql && !after.is_ascii_whitespace() => None,
            [b'-', b'-', ..] | [b'#', ..] if rest[0] == b'-' || is_mysql => {
                let end = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                Some((Within::Comment, at + end))
            }
            [b'/', b'*', ..] => Some((Within::Comment, self.after_comment(at, seen))),
            [b'$', ..] if self.system == Placeholders::Dollar => self.dollars(at, seen),
            _ => None,
        }
    }

    /// Whether a letter stands alone, as the E of `E'…'` does.
    fn is_word_of_one(&self, at: usize) -> bool {
        let before = at.checked_sub(1).map(|before| self.text[before]);
        !before.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80)
    }

    fn after_quote(&self, at: usize, quote: u8, escapes: bool, seen: &mut Seen) -> usize {
        let mut next = at + 1;
        while next < self.text.len() {
            if self.text[next] == b'\\' && escapes {
                next += 2;
            } else if self.text[next] != quote {
                next += 1;
            } else if self.text.get(next + 1) == Some(&quote) {
                next += 2;
            } else {
                return next + 1;
            }
        }
        let why = format!("the statement has a {} that is never closed", char::from(quote));
        seen.faults.push((at, why));
        self.text.len()
    }

    /// PostgreSQL's comments nest.
    fn after_comment(&self, at: usize, seen: &mut Seen) -> usize {
        let (mut depth, mut next) = (0_usize, at);
        while next < self.text.len() {
            match &self.text[next..] {
                [b'/', b'*', ..] if depth == 0 || self.system == Placeholders::Dollar => {
                    depth += 1;
                    next += 2;
                }
                [b'*', b'/', ..] => {
                    depth -= 1;
                    next += 2;
                    if depth == 0 {
                        return next;
                    }
                }
                _ => next += 1,
            }
        }
        seen.faults.push((at, "the statement has a /* that is never closed".to_owned()));
        self.text.len()
    }

    /// `$tag$ … $tag$`.
    fn dollars(&self, at: usize, seen: &mut Seen) -> Option<(Within, usize)> {
        if !self.is_word_of_one(at) {
            return None;
        }
        let rest = &self.text[at + 1..];
        let len = rest.iter().position(|b| *b == b'$')?;
        let tag = &rest[..len];
        let is_tag = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
        if !tag.iter().all(is_tag) || tag.first().is_some_and(u8::is_ascii_digit) {
            return None;
        }
        let mark = &self.text[at..at + len + 2];
        let body = at + mark.len();
        let end = self.text[body..].windows(mark.len()).position(|part| part == mark);
        if end.is_none() {
            let mark = String::from_utf8_lossy(mark);
            seen.faults.push((at, format!("the statement has a {mark} that is never closed")));
        }
        Some((Within::Dollars, end.map_or(self.text.len(), |end| body + end + mark.len())))
    }

    /// A parameter of the database's own, for which there would be no value.
    fn bare_parameter(&self, at: usize, seen: &mut Seen) {
        let next = self.text.get(at + 1).copied().unwrap_or_default();
        let is_bare = match (self.system, self.text[at]) {
            (Placeholders::Question | Placeholders::Bare, b'?') => true,
            (Placeholders::Question, b':' | b'@' | b'$') => {
                (next.is_ascii_alphabetic() || next == b'_') && self.is_word_of_one(at)
            }
            (Placeholders::Dollar, b'$') => next.is_ascii_digit() && self.is_word_of_one(at),
            _ => false,
        };
        if is_bare {
            let mark = char::from(self.text[at]);
            let why = format!(
                "the statement has a parameter ({mark}) without a value: write ${{param.NAME}}"
            );
            seen.faults.push((at, why));
        }
    }
}
