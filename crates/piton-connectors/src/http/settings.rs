//! What a user types for an HTTP sink.

use std::{collections::BTreeMap, num::NonZeroUsize};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ureq::http::{HeaderName, HeaderValue, Uri};

use crate::settings::Period;

/// Posts records as JSON, at least once:
/// `{"pipeline": "…", "sink": "…", "records": [{"id": "…", "record": {…}}, …]}`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpSettings {
    /// Where to post: an http or https URL. A user and password in it are sent as basic
    /// authentication.
    pub url: String,
    /// Headers of every request.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The most records in a request. A request of more than 4 MiB is split, too.
    #[serde(default = "batch")]
    pub batch: NonZeroUsize,
    /// How long one request may take, from connecting to the end of the answer.
    #[serde(default = "timeout")]
    pub timeout: Period,
}

/// Headers that are not the user's to set.
const OURS: &[&str] = &[
    "content-length",
    "content-type",
    "host",
    "idempotency-key",
    "transfer-encoding",
    "connection",
    "expect",
];

/// Parts of the settings that were checked.
pub(super) struct Checked {
    pub(super) uri: Uri,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    /// The URL for people, without its secrets.
    pub(super) shown: String,
}

impl std::fmt::Debug for HttpSettings {
    /// Without values of headers, and without the secrets of the URL.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpSettings")
            .field("url", &self.url.parse().map_or("?".into(), |uri| shown(&uri)))
            .field("headers", &self.headers.keys())
            .field("batch", &self.batch)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl HttpSettings {
    /// Finds what cannot work. No message repeats a value that may be secret.
    pub(super) fn check(&self) -> Result<Checked, String> {
        let uri: Uri = self.url.parse().map_err(|e| format!("`url` is not a URL: {e}"))?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if !is_http || uri.host().is_none_or(str::is_empty) {
            return Err("`url` must be http://HOST/… or https://HOST/…".into());
        }
        let mut headers = Vec::new();
        for (name, value) in &self.headers {
            let wrong = |what: &str| format!("`headers`: '{}' {what}", name.escape_debug());
            let parsed: HeaderName = name.parse().map_err(|_| wrong("is not a header's name"))?;
            if OURS.contains(&parsed.as_str()) {
                return Err(wrong("is set by piton itself: leave it out"));
            }
            let mut value: HeaderValue =
                value.parse().map_err(|_| wrong("has a value that no header can have"))?;
            value.set_sensitive(true);
            headers.push((parsed, value));
        }
        let shown = shown(&uri);
        Ok(Checked { uri, headers, shown })
    }
}

/// A URL without user, password and query, where secrets are.
pub(super) fn shown(uri: &Uri) -> String {
    let scheme = uri.scheme_str().map_or(String::new(), |scheme| format!("{scheme}://"));
    let host = uri.host().unwrap_or_default();
    let port = uri.port().map_or(String::new(), |port| format!(":{port}"));
    let query = if uri.query().is_some() { "?…" } else { "" };
    format!("{scheme}{host}{port}{}{query}", uri.path())
}

fn batch() -> NonZeroUsize {
    NonZeroUsize::new(500).unwrap_or(NonZeroUsize::MIN)
}

fn timeout() -> Period {
    Period::seconds(30)
}
