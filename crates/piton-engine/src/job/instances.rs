//! The runs of a job that takes parameters, by the job's name alone.

use std::collections::BTreeSet;

use futures_executor::block_on;
use piton_core::{Store, StoreError};

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
