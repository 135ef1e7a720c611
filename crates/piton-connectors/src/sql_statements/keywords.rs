//! What a statement does to a transaction, as far as its first words tell.
//!
//! This is for saying so before anything is done. What the words do not tell (a procedure that
//! commits, a later one of several statements) each database notices afterwards.

use super::{Statement, statement::Piece};

/// The first words of a statement, in capitals, past comments.
fn first_words(statement: &Statement) -> Vec<String> {
    let Some(Piece::Text(text)) = statement.pieces.first() else { return Vec::new() };
    let mut rest = past_comments(text);
    let mut words = Vec::new();
    while words.len() < 4 {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        words.push(rest[..end].to_ascii_uppercase());
        rest = past_comments(&rest[end..]);
    }
    words
}

fn past_comments(text: &str) -> &str {
    let mut rest = text.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
    loop {
        let after = if rest.starts_with("--") || rest.starts_with('#') {
            rest.split_once('\n').map_or("", |(_, after)| after)
        } else if let Some(comment) = rest.strip_prefix("/*").filter(|c| !c.starts_with('!')) {
            comment.split_once("*/").map_or("", |(_, after)| after)
        } else {
            return rest;
        };
        rest = after.trim_start_matches(|c: char| c.is_whitespace() || c == ';');
    }
}

/// Whether a statement begins or ends a transaction, by its first words.
pub(super) fn is_of_transactions(statement: &Statement) -> bool {
    let words = first_words(statement);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["ROLLBACK", "TO", ..] | ["ROLLBACK", "WORK" | "TRANSACTION", "TO", ..] => false,
        ["START" | "PREPARE", "TRANSACTION", ..] => true,
        ["BEGIN" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "XA", ..] => true,
        _ => false,
    }
}

/// Whether a word, in capitals, stands somewhere in a statement.
#[cfg(feature = "mysql")]
pub(super) fn mentions(statement: &Statement, word: &str) -> bool {
    statement.pieces.iter().any(|piece| match piece {
        Piece::Text(text) => text.to_ascii_uppercase().contains(word),
        Piece::Value(_) => false,
    })
}

/// Whether MySQL commits before and after a statement, by its first words. Those about temporary
/// tables it does not.
#[cfg(feature = "mysql")]
pub(super) fn commits_in_mysql(statement: &Statement) -> bool {
    let words = first_words(statement);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["CREATE" | "DROP", "TEMPORARY", ..] | ["CREATE", "OR", "REPLACE", "TEMPORARY"] => false,
        ["LOAD", "INDEX", ..] => true,
        [
            "ALTER" | "ANALYZE" | "CACHE" | "CHECK" | "CREATE" | "DROP" | "FLUSH" | "GRANT"
            | "INSTALL" | "LOCK" | "OPTIMIZE" | "RENAME" | "REPAIR" | "RESET" | "REVOKE"
            | "TRUNCATE" | "UNINSTALL" | "UNLOCK",
            ..,
        ] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_transactions_are_known_by_their_words() {
        for (sql, ends) in [
            ("COMMIT", true),
            (" ; -- done\n/* all of it */ commit and chain", true),
            ("begin", true),
            ("START TRANSACTION", true),
            ("ROLLBACK", true),
            ("ROLLBACK TO SAVEPOINT a", false),
            ("ROLLBACK WORK TO a", false),
            ("START SLAVE", false),
            ("INSERT INTO t VALUES ('COMMIT')", false),
            ("commitments", false),
            ("-- COMMIT", false),
            ("", false),
        ] {
            assert_eq!(is_of_transactions(&Statement::text(sql)), ends, "{sql}");
        }
    }

    #[cfg(feature = "mysql")]
    #[test]
    fn what_mysql_commits_is_known_by_its_words() {
        for (sql, commits) in [
            ("CREATE TABLE t (id int)", true),
            ("# the old one\ndrop table t", true),
            ("TRUNCATE t", true),
            ("CREATE TEMPORARY TABLE t (id int)", false),
            ("DROP TEMPORARY TABLE t", false),
            ("LOAD DATA INFILE 'x' INTO TABLE t", false),
            ("UPDATE t SET a = 1", false),
        ] {
            assert_eq!(commits_in_mysql(&Statement::text(sql)), commits, "{sql}");
        }
    }
}
