//! The runs of a job that takes parameters, by the job's name alone or with some of them; and whose a
//! job's runs are.

use std::collections::{BTreeMap, BTreeSet};

use futures_executor::block_on;
use piton::job::{self, JobError};
use piton_core::{Store, StoreError};

/// Refuses a name under which a file has runs: they are not a script's.
pub(super) fn refuse_of_file(store: &dyn Store, job: &str) -> Result<(), JobError> {
    let newest = job::newest(store, job)?;
    let mut runs = newest.into_iter().chain(instances(store, job)?);
    runs.try_for_each(|run| job::refuse_of_other(store, &run, false))
}

/// Refuses the job of a file under a name under which a script or a program has a run. `run`: its name with
/// parameters.
pub(super) fn refuse_of_script(store: &dyn Store, job: &str, run: &str) -> Result<(), JobError> {
    let newest = [job::newest(store, run)?, job::newest(store, job)?];
    newest.iter().flatten().try_for_each(|run| job::refuse_of_other(store, run, true))
}

/// Those runs of a job that have the given parameters, and maybe others: of each the newest. `params` are
/// names and values.
///
/// # Errors
/// What the store fails with.
pub fn with_params(
    store: &dyn Store,
    job: &str,
    params: &[(String, String)],
) -> Result<Vec<String>, StoreError> {
    let mut runs = instances(store, job)?;
    runs.retain(|run| {
        let known = run.strip_prefix(job).and_then(params_of).unwrap_or_default();
        params.iter().all(|(name, value)| known.get(name) == Some(value))
    });
    Ok(runs)
}

/// The parameters in what stands behind a job's name: `(a=1, b="x, y")#2`, each as text.
pub(super) fn params_of(behind: &str) -> Option<BTreeMap<String, String>> {
    let mut rest = behind.strip_prefix('(')?;
    rest = &rest[..rest.rfind(')')?];
    let mut params = BTreeMap::new();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let (text, end) = if value.starts_with('"') {
            let mut texts = serde_json::Deserializer::from_str(value).into_iter::<String>();
            let text = texts.next()?.ok()?;
            (text, texts.byte_offset())
        } else {
            let end = value.find(',').unwrap_or(value.len());
            (value[..end].to_owned(), end)
        };
        params.insert(name.to_owned(), text);
        let after = &value[end..];
        rest = after.strip_prefix(", ").unwrap_or(after);
    }
    Some(params)
}

/// The newest run for each choice of parameters with which the store knows the job, in the order of
/// their names: `nightly(date=2026-11-20)`, `nightly(date=2026-11-21)#2`.
///
/// # Errors
/// What the store fails with.
pub fn instances(store: &dyn Store, job: &str) -> Result<Vec<String>, StoreError> {
    let known = block_on(store.pipelines())?;
    let jobs = known.iter().filter(|known| super::is_job(known));
    let instances: BTreeSet<&str> =
        jobs.filter_map(|known| instance_of(job, &known.pipeline)).collect();
    let newest = |instance| piton::job::newest(store, instance).transpose();
    instances.into_iter().filter_map(newest).collect()
}

/// The name of a run without its number, if it is one of that job with parameters.
fn instance_of<'a>(job: &str, run: &'a str) -> Option<&'a str> {
    let params = run.strip_prefix(job)?;
    let is_number = |text: &str| text.strip_prefix('#').is_some_and(|n| n.parse::<u64>().is_ok());
    // A parameter's value may hold a parenthesis, but the last one ends them all.
    let end = params.rfind(')')? + 1;
    let is_whole = end == params.len() || is_number(&params[end..]);
    (params.starts_with('(') && is_whole).then(|| &run[..job.len() + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_with_which_parameters_a_run_was_begun() {
        let is_of = |name: &str, wanted: &[(&str, &str)]| {
            let wanted = wanted.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
            assert_eq!(params_of(name), Some(wanted.collect()), "{name}");
        };
        is_of("(a=1)#2", &[("a", "1")]);
        is_of(r#"(a="x, \"y)", b=2026-11-20)"#, &[("a", "x, \"y)"), ("b", "2026-11-20")]);
        let all = [("a", "x), \"b/"), ("date", "2026-11-20"), ("n", "7")];
        is_of(r#"(a="x), \"b\u002f", date=2026-11-20, n=7)#2"#, &all);
        assert_eq!(params_of("#2"), None);
        assert_eq!(params_of(""), None);
    }

    #[test]
    fn a_run_belongs_to_a_job_and_a_choice_of_parameters() {
        let of = |run| instance_of("crm", run);
        assert_eq!(of("crm(date=2026-11-20)"), Some("crm(date=2026-11-20)"));
        assert_eq!(of("crm(date=2026-11-20)#12"), Some("crm(date=2026-11-20)"));
        assert_eq!(of(r#"crm(a="x)#2")#3"#), Some(r#"crm(a="x)#2")"#));
        for other in ["crm", "crm#2", "crm2(a=1)", "crm(a=1)/step", "crm(a=1", "acrm(a=1)"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
