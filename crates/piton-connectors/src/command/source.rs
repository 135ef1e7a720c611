//! The source: a command that is started at a position.

use std::{path::Path, sync::Arc};

use piton_core::{PositionOrder, StoredPosition, position::order_of};
use serde_json::{Value, json};

use super::{
    position::CommandPosition,
    process::{ProcessError, Program},
    reader::CommandReader,
    records::Records,
    settings::CommandSettings,
};
use crate::{
    batch::Batch,
    source::{Reader, Source, SourceError, Start},
};

/// Its one partition. Part of every stable id.
pub(super) const PARTITION: &str = "command";

/// Reads what a command prints.
#[derive(Debug)]
pub struct CommandSource {
    program: Arc<Program>,
    key: String,
    /// The words of the command without secrets.
    shown: Value,
    limit: usize,
    pipeline: String,
}

impl CommandSource {
    /// A command that runs in `dir`. Looks at no file, starts nothing. `limit` is the most bytes of a
    /// record; `pipeline` is named before what the command prints on standard error.
    ///
    /// # Errors
    /// [`SourceError::Settings`] for a command that names no program, or no key.
    pub fn new(
        settings: &CommandSettings,
        dir: &Path,
        pipeline: &str,
        limit: usize,
    ) -> Result<Self, SourceError> {
        let program = Program::new(&settings.run, dir).map_err(of_process)?;
        if settings.key.is_empty() {
            let what = "`key` names no field: it is what says where a record stands".to_owned();
            return Err(SourceError::Settings { what });
        }
        let (key, shown) = (settings.key.clone(), json!(settings.run));
        let pipeline = pipeline.to_owned();
        Ok(Self { program: Arc::new(program), key, shown, limit, pipeline })
    }

    /// The same, whose words have secrets in them: what is kept and shown in their place.
    #[must_use]
    pub fn shown(mut self, shown: Value) -> Self {
        self.shown = shown;
        self
    }

    fn records(&self, after: CommandPosition) -> Records {
        Records::after(after, &self.program, &self.key, self.limit)
    }
}

pub(super) fn of_process(error: ProcessError) -> SourceError {
    match error {
        ProcessError::NotStarted { .. } => SourceError::Failed { what: error.to_string() },
        error => SourceError::Settings { what: error.to_string() },
    }
}

fn position(stored: Option<&StoredPosition>) -> Result<CommandPosition, SourceError> {
    Ok(stored.map(StoredPosition::read).transpose()?.unwrap_or_default())
}

impl Source for CommandSource {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn identity(&self) -> Value {
        json!({"kind": "command", "run": self.shown, "key": self.key})
    }

    fn order(&self) -> PositionOrder {
        order_of::<CommandPosition>
    }

    fn is_bounded(&self) -> bool {
        true
    }

    fn partitions(&self) -> Result<Vec<String>, SourceError> {
        self.program.find().map_err(of_process)?;
        Ok(vec![PARTITION.to_owned()])
    }

    fn remarks(&self) -> Vec<String> {
        let name = self.program.name();
        vec![format!(
            "what '{name}' reads is its own affair: a resume hands it the last `{}` in \
             PITON_POSITION, and what it leaves out after that is missing, what it prints again is \
             there again. Whether its data has changed meanwhile is not checked",
            self.key
        )]
    }

    fn verify(&self, start: &Start, _thorough: bool) -> Result<(), SourceError> {
        position(start.position.as_ref()).map(drop)
    }

    fn reader(&self, starts: &[Start]) -> Result<Box<dyn Reader>, SourceError> {
        let start = starts.iter().find(|start| start.partition == PARTITION);
        let after = position(start.and_then(|start| start.position.as_ref()))?;
        let records = self.records(after);
        Ok(Box::new(CommandReader::start(&self.program, records, &self.pipeline)?))
    }

    fn progress(&self, _: &[Start]) -> Option<(u64, u64)> {
        None
    }

    fn parse(&self, partition: &str, raw: &str) -> Result<Batch, SourceError> {
        let mut records = self.records(CommandPosition::default());
        let mut batch = records.begin();
        let failed = |what: String| SourceError::Failed { what: format!("{partition}: {what}") };
        records.append(raw.trim().as_bytes(), &mut batch).map_err(failed)?;
        Ok(records.finish(batch))
    }
}
