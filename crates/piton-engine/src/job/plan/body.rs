//! What is said of the body of a step: what it works on, where it resumes, and what is promised.

use futures_executor::block_on;
use piton::job::WHOLE_JOB;
use piton_connectors::{
    sink::Guarantee,
    sql_statements::{
        self, Piece as Bound, Statement as BoundStatement, StatementsError, Value as Parameter,
    },
};
use piton_core::Epoch;

use super::{Next, Planner, Promise, Refusal, StepPlan, refusal};
use crate::{
    connect,
    job::{
        body::{foreseen, is_quickest},
        definition::{Body, Database, Piece, Reference, Sql, Step, Template, Value},
    },
    plan as pipeline, rehearsal,
    run::RunError,
};

impl Planner<'_> {
    pub(super) fn body(&self, step: &Step, planned: &mut StepPlan) {
        match &step.body {
            Body::Group => {}
            Body::Pipeline(template) => self.pipeline(step, template, planned),
            Body::Sql(sql) => {
                let (what, promised) = self.statements(step, sql);
                planned.what = Some(what);
                match promised {
                    Ok(promise) => planned.guarantees.push(promise),
                    Err(refusal) => planned.refusal = planned.refusal.take().or(Some(refusal)),
                }
                self.foresee(step, sql, planned);
            }
            Body::Run(command) => {
                planned.what = Some(command.named.clone());
                planned.guarantees.push(of_a_command());
            }
            Body::ForEach(each) => match self.source(step, &each.source) {
                Ok(source) => {
                    let is_grouped = planned.next == Next::Begun && is_quickest(step, each);
                    let way = if is_grouped { ", many in one transaction" } else { "" };
                    planned.what = Some(format!("each {} of {source}{way}", each.name));
                }
                Err(error) => planned.refusal = planned.refusal.take().or(Some(refusal(&error))),
            },
        }
    }

    fn pipeline(&self, step: &Step, template: &Template, planned: &mut StepPlan) {
        if let Err(error) = self.ask(step, template, planned) {
            planned.refusal = planned.refusal.take().or_else(|| Some(refusal(&error)));
        }
    }

    /// What the engine says of the pipeline that the step would run.
    fn ask(
        &self,
        step: &Step,
        template: &Template,
        planned: &mut StepPlan,
    ) -> Result<(), RunError> {
        let name = format!("{}/{}", self.run, step.path);
        let value = |reference: &Reference| Some(self.value(step, reference));
        let config = template.config(&name, &value);
        let config = config.map_err(|error| RunError::Settings(error.to_string()))?;
        let pipeline = connect::pipeline(&config, false)?;
        // What is stored does not count for a step that starts over.
        let counts = matches!(planned.next, Next::Resumed | Next::Begun);
        let plan = pipeline::plan(&pipeline, Some(self.store).filter(|_| counts))?;
        planned.what = Some(pipeline::brief_source(&plan.source));
        if planned.next == Next::Resumed {
            planned.resumes_after = plan.sinks.iter().filter_map(|sink| sink.resumes_after).min();
        }
        if planned.next == Next::Resumed {
            let touched = |sink: &pipeline::SinkPlan| {
                let told = sink.touches_again.as_ref()?;
                Some(format!("sink '{}': {told}", sink.sink))
            };
            planned.touches_again.extend(plan.sinks.iter().filter_map(touched));
        }
        planned.changes = plan.changes;
        planned.guarantees.extend(plan.sinks.into_iter().map(|sink| Promise {
            sink: Some(format!("'{}' ({})", sink.sink, sink.at)),
            guarantee: sink.guarantee,
            why: sink.why,
        }));
        // Whoever runs the job has claimed its pipelines, too, and locked what it writes.
        if self.is_held || planned.next == Next::ForEach {
            return Ok(());
        }
        planned.refusal = planned.refusal.take().or(plan.refusal);
        if planned.refusal.is_none() {
            rehearsal::rehearse(&pipeline)?;
        }
        Ok(())
    }

    /// What a `for_each` reads, in a few words.
    fn source(&self, step: &Step, template: &Template) -> Result<String, RunError> {
        let name = format!("{}/{}", self.run, step.path);
        let value = |reference: &Reference| Some(self.value(step, reference));
        let config = template.config(&name, &value);
        let config = config.map_err(|error| RunError::Settings(error.to_string()))?;
        let source = connect::source(&config, false);
        let source = source.map_err(|error| RunError::of_source(&name, &error))?;
        Ok(pipeline::brief_source(&source.identity()))
    }

    /// A mark that the store knows nothing of.
    fn foresee(&self, step: &Step, sql: &Sql, planned: &mut StepPlan) {
        if !matches!(planned.next, Next::Begun | Next::Resumed) || self.is_held {
            return;
        }
        let generation = self.states.get(&step.path).map_or(0, |state| state.generation);
        let known = (self.states.get(WHOLE_JOB), generation);
        let newest = self.newest_epoch();
        let found = foreseen((self.job, &self.run), (step, sql), known, newest);
        let found = found.map(|what| refusal(&RunError::Refused(what)));
        planned.refusal = planned.refusal.take().or(found);
    }

    /// The newest claim that the store has given for the run, as far as what is stored says.
    fn newest_epoch(&self) -> Epoch {
        let runs = block_on(self.store.runs(&self.run, 1)).unwrap_or_default();
        let steps = block_on(self.store.load(&self.run)).unwrap_or_default();
        let epochs = runs.into_iter().map(|run| run.epoch);
        epochs.chain(steps.into_iter().map(|step| step.epoch)).max().unwrap_or(Epoch(0))
    }

    /// Where statements are executed, and what is promised of them.
    pub(super) fn statements(&self, step: &Step, sql: &Sql) -> (String, Result<Promise, Refusal>) {
        let url = match &sql.database {
            Database::Sqlite(path) => format!("sqlite:{}", path.display()),
            Database::Postgres(url) | Database::MySql(url) => url.clone(),
        };
        let opened = sql_statements::open(&url, &self.job.dir, self.job.claim.lease);
        let database = match opened {
            Ok(database) => database,
            Err(error) => return (String::new(), Err(of_statements(&error))),
        };
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => Bound::Text(text.clone()),
            Piece::Value(reference) => Bound::Value(parameter(&self.value(step, reference))),
        };
        let bound = sql.statements.iter().map(|statement| BoundStatement {
            pieces: statement.pieces.iter().map(piece).collect(),
        });
        let promised = database.guarantee(&bound.collect::<Vec<_>>());
        let promised = promised.map(|Guarantee { what, why }| Promise {
            sink: None,
            guarantee: what.to_owned(),
            why,
        });
        (database.location(), promised.map_err(|error| of_statements(&error)))
    }
}

/// Something in the place of a parameter: what is promised does not depend on values.
fn parameter(value: &Value) -> Parameter {
    match value.to_text() {
        Some(text) => Parameter::Text(text.into_owned()),
        None => Parameter::Null,
    }
}

/// What holds for every command.
pub(super) fn of_a_command() -> Promise {
    Promise {
        sink: None,
        guarantee: "at least once".to_owned(),
        why: "a crash after its work and before that is noted has it started again, with \
              PITON_RECOVERING=1 and the next PITON_ATTEMPT"
            .to_owned(),
    }
}

fn of_statements(error: &StatementsError) -> Refusal {
    refusal(&RunError::Settings(error.to_string()))
}
