//! State that was changed since the last save.

use std::collections::BTreeMap;

use piton_core::StateEntry;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::CursorError;

/// How much changed state is kept until the next save. More makes a save due.
const LIMIT_BYTES: usize = 4 << 20;

/// Changed entries; `None` removes one.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    entries: BTreeMap<String, Option<String>>,
    /// Of keys and values, about.
    bytes: usize,
}

/// What became of one entry.
pub(crate) enum Change<'a> {
    Put(&'a str),
    Removed,
}

impl Change<'_> {
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        job: &str,
        key: &str,
    ) -> Result<Option<T>, CursorError> {
        match self {
            Self::Put(json) => parse(job, key, json).map(Some),
            Self::Removed => Ok(None),
        }
    }
}

impl Changes {
    pub(crate) fn put<T: Serialize>(
        &mut self,
        job: &str,
        key: &str,
        value: &T,
    ) -> Result<(), CursorError> {
        let json = serde_json::to_string(value).map_err(|error| bad(job, key, &error))?;
        self.set(key, Some(json));
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.set(key, None);
    }

    fn set(&mut self, key: &str, json: Option<String>) {
        let size = |json: &Option<String>| json.as_ref().map_or(0, String::len);
        self.bytes += size(&json);
        match self.entries.insert(key.to_owned(), json) {
            Some(old) => self.bytes -= size(&old),
            None => self.bytes += key.len(),
        }
    }

    /// What was changed under a key, if it was.
    pub(crate) fn get(&self, key: &str) -> Option<Change<'_>> {
        let json = self.entries.get(key)?.as_deref();
        Some(json.map_or(Change::Removed, Change::Put))
    }

    /// Stored entries with the changes over them, in the order of keys.
    pub(crate) fn over<T: DeserializeOwned>(
        &self,
        job: &str,
        stored: Vec<StateEntry>,
    ) -> Result<Vec<(String, T)>, CursorError> {
        let mut all: BTreeMap<String, Option<String>> =
            stored.into_iter().map(|entry| (entry.key, entry.json)).collect();
        all.extend(self.entries.iter().map(|(key, json)| (key.clone(), json.clone())));
        let there = all.into_iter().filter_map(|(key, json)| Some((key, json?)));
        there.map(|(key, json)| Ok((key.clone(), parse(job, &key, &json)?))).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn is_large(&self) -> bool {
        self.bytes > LIMIT_BYTES
    }

    pub(crate) fn to_save(&self) -> Vec<StateEntry> {
        let entry = |(key, json): (&String, &Option<String>)| StateEntry {
            key: key.clone(),
            json: json.clone(),
        };
        self.entries.iter().map(entry).collect()
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A value from its JSON.
pub(crate) fn parse<T: DeserializeOwned>(
    job: &str,
    key: &str,
    json: &str,
) -> Result<T, CursorError> {
    serde_json::from_str(json).map_err(|error| bad(job, key, &error))
}

fn bad(job: &str, key: &str, error: &serde_json::Error) -> CursorError {
    CursorError::State { job: job.to_owned(), key: key.to_owned(), why: error.to_string() }
}
