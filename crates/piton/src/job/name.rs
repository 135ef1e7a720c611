//! Names: of steps, of paths through the tree, and of a job with its parameters.

use std::borrow::Cow;

use piton_core::{Store, StoreError};
use pollster::block_on;

use super::{JobError, WHOLE_JOB};

/// The longest name of a step, in bytes.
const LONGEST: usize = 200;

/// The path of a step below its parent: names with `/` between them.
///
/// # Errors
/// [`JobError::Name`] for a name that no step can have.
pub fn path_of(parent: Option<&str>, name: &str) -> Result<String, JobError> {
    let is_fine = !name.is_empty()
        && name.len() <= LONGEST
        && name != WHOLE_JOB
        && !name.contains(|c: char| c == '/' || c.is_control());
    match parent {
        _ if !is_fine => Err(JobError::Name { name: name.to_owned() }),
        None => Ok(name.to_owned()),
        Some(parent) => Ok(format!("{parent}/{name}")),
    }
}

/// The longest name of a job or a step that a file describes.
const LONGEST_PLAIN: usize = 100;

/// Whether a name follows the rule of files, so that it is neither that of a further run (`nightly#2`) nor
/// of one with parameters: at most 100 letters, digits, `.`, `_` and `-`.
pub fn is_plain(name: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name != WHOLE_JOB && name.len() <= LONGEST_PLAIN && name.chars().all(fits)
}

/// A name as a shell takes it: in quotes where it needs them, as `'nightly(date=2026-11-20)'` does.
pub fn in_shell(name: &str) -> Cow<'_, str> {
    let is_safe = |c: char| c.is_alphanumeric() || "._-+:@/=%".contains(c);
    if !name.is_empty() && name.chars().all(is_safe) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(format!("'{}'", name.replace('\'', r"'\''")))
}

/// A whole path, as people and commands write it: `customer/invoice`.
///
/// # Errors
/// [`JobError::Name`] if one of its names is none that a step can have.
pub fn whole_path(path: &str) -> Result<String, JobError> {
    path.split('/').try_for_each(|name| path_of(None, name).map(drop))?;
    Ok(path.to_owned())
}

/// The name under which a store has a job with its parameters: `nightly(date=2026-11-20)`. The
/// order in which they are given does not matter.
pub fn instance(name: &str, params: &[(String, String)]) -> String {
    if params.is_empty() {
        return name.to_owned();
    }
    let mut params: Vec<String> =
        params.iter().map(|(key, value)| format!("{key}={value}")).collect();
    params.sort();
    format!("{name}({})", params.join(", "))
}

/// The name of a further run of the same instance.
pub(super) fn numbered(instance: &str, run: u64) -> String {
    if run == 1 { instance.to_owned() } else { format!("{instance}#{run}") }
}

/// The number of a run by the name under which a store has it, if it is one of this instance.
pub(super) fn number_in(instance: &str, stored: &str) -> Option<u64> {
    match stored.strip_prefix(instance)? {
        "" => Some(1),
        rest => rest.strip_prefix('#')?.parse().ok(),
    }
}

/// The name under which a store has the newest run of an instance; `None` if there is none.
///
/// # Errors
/// What the store fails with.
pub fn newest(store: &dyn Store, instance: &str) -> Result<Option<String>, StoreError> {
    Ok(newest_number(store, instance)?.map(|run| numbered(instance, run)))
}

pub(super) fn newest_number(store: &dyn Store, instance: &str) -> Result<Option<u64>, StoreError> {
    let known = block_on(store.pipelines())?;
    Ok(known.iter().filter_map(|record| number_in(instance, &record.pipeline)).max())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_again_by_its_name() {
        let params = [("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())];
        let named = instance("nightly", &params);
        assert_eq!(named, "nightly(a=1, b=2)");
        assert_eq!(instance("nightly", &[]), "nightly");
        for run in [1, 2, 10] {
            assert_eq!(number_in(&named, &numbered(&named, run)), Some(run));
        }
        assert_eq!(number_in("nightly", &named), None);
        assert_eq!(number_in("night", "nightly"), None);
    }

    #[test]
    fn names_are_plain_or_quoted() {
        assert!(["nightly", "a.b_c-9"].into_iter().all(is_plain));
        for name in ["", ".", "d#2", "p(x=1)", "a b", "a\nb", "a/b", &"x".repeat(101)] {
            assert!(!is_plain(name), "{name}");
        }
        assert_eq!(in_shell("crm/invoice"), "crm/invoice");
        assert_eq!(in_shell("crm(a=1)#2"), "'crm(a=1)#2'");
        assert_eq!(in_shell("it's"), r"'it'\''s'");
    }

    #[test]
    fn names_that_no_path_can_hold_are_refused() {
        assert_eq!(path_of(Some("a"), "b").unwrap(), "a/b");
        assert_eq!(whole_path("a/b").unwrap(), "a/b");
        assert!(matches!(whole_path("a//b"), Err(JobError::Name { .. })));
        for name in ["", ".", "a/b", "a\n", &"x".repeat(201)] {
            assert!(matches!(path_of(None, name), Err(JobError::Name { .. })), "{name}");
        }
    }
}
