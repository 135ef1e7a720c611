//! INTERIM.
use std::{path::{Path, PathBuf}, collections::BTreeMap, time::Duration, str::FromStr};
use serde::Deserialize;
use piton_connectors::{file::*, sqlite::SqliteSettings, stdout::StdoutSettings};
pub use piton_connectors::settings::Period;
#[derive(Debug, Deserialize)]
pub struct Config {
    pub pipeline: String,
    #[serde(default = "store")]
    pub store: String,
    #[serde(skip)]
    pub dir: PathBuf,
    pub source: Source,
    pub sinks: BTreeMap<String, SinkC>,
    pub checkpoint: Option<Ck>,
}
#[derive(Debug, Deserialize)]
pub struct Ck { pub every: Option<Period>, pub records: Option<u64> }
#[derive(Debug, Deserialize)]
pub struct Source { pub csv: Option<CsvSettings>, pub jsonl: Option<JsonlSettings>, pub rate: Option<String> }
#[derive(Debug, Deserialize)]
pub struct SinkC { pub sqlite: Option<SqliteSettings>, pub jsonl: Option<JsonlSinkSettings>, pub csv: Option<CsvSinkSettings>, pub stdout: Option<StdoutSettings>, pub required: Option<bool> }
fn store() -> String { "sqlite:piton.db".into() }
#[derive(Debug)]
pub struct ConfigError(String);
impl std::fmt::Display for ConfigError { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }
pub fn load(path: &Path, _: &dyn Fn(&str)->Option<String>) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|e| ConfigError(e.to_string()))?;
    let mut c: Config = serde_saphyr::from_str(&text).map_err(|e| ConfigError(e.to_string()))?;
    c.dir = std::path::absolute(path).unwrap().parent().unwrap().to_owned();
    Ok(c)
}
pub fn init(_: &Path) -> Result<String, ConfigError> { Err(ConfigError("interim".into())) }
pub fn schema() -> serde_json::Value { serde_json::json!({}) }

pub(crate) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known.into_iter().map(|k| (strsim::damerau_levenshtein(name, k), k)).min().filter(|(d, _)| *d <= 2).map(|(_, k)| k)
}
