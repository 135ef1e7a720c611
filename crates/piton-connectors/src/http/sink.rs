//! The sink: rows into requests, and answers into what to do.
//!
//! - 2xx: the records are durable. 429, 408, 425, 5xx, no answer or no connection: try again.
//! - 3xx, and what speaks of the address or the right to use it (401, 403, 404, …): stop, since no
//!   record is at fault.
//! - Any other 4xx: some record is at fault. A request of several is posted again one by one to
//!   find it.
//!
//! What was answered before a failure is remembered by its idempotency key and not posted again
//! when the engine comes back with the same rows.

use std::{
    fmt,
    ops::Range,
    time::{Duration, Instant},
};

use piton_core::{Output, fault};
use ureq::{
    Agent, Body,
    http::{HeaderName, HeaderValue, Response, Uri, header::RETRY_AFTER},
};
use xxhash_rust::xxh3::Xxh3;

use super::settings::{Checked, HttpSettings, shown};
use crate::{
    batch::Batch,
    sink::{Accepted, Durable, Guarantee, PlainSink, Promise, Resume, SinkError},
};

/// The longest that a receiver's `Retry-After` is heeded.
const WAIT_MAX: Duration = Duration::from_mins(5);

/// How long connecting may take, if the timeout is not shorter.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A request is sent when it has this many bytes, whatever `batch` says.
const BODY_BYTES: usize = 4 * 1024 * 1024;

/// How much of a refusal is shown, in characters.
const REASON_CHARS: usize = 200;

/// How often a conflict is taken for a first attempt that is still being worked on. After that it
/// is about the record: it may be there already.
const CONFLICTS_MAX: u32 = 5;

/// How much of an answer is read before the connection is used again, in bytes.
const ANSWER_BYTES: u64 = 64 * 1024;

/// Posts records as JSON, at least once. Memory: one request's body.
pub struct HttpSink {
    agent: Agent,
    uri: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    shown: String,
    pipeline: String,
    sink: String,
    batch: usize,
    /// The request that is being built.
    request: Request,
    /// Requests that were answered with a 2xx since the last write that was taken whole.
    answered: Vec<u128>,
    /// A request that was refused as a whole, and is posted record by record.
    split: Option<u128>,
    /// A request that may have arrived, although no answer came, and how often it was in conflict
    /// with that attempt since.
    unanswered: Option<(u128, u32)>,
    /// Until when the receiver asked to be left alone.
    asked_to_wait: Option<Instant>,
}

/// A body, and the key that is the same whenever the same records are posted.
#[derive(Default)]
struct Request {
    body: Vec<u8>,
    key: u128,
    id: String,
    /// How many rows from the first of the range.
    rows: usize,
}

/// What an answer means.
enum Answer {
    /// The records are durable.
    Taken,
    /// A record is at fault.
    Refused(String),
    /// Nothing to do with the records.
    Failed(SinkError),
}

impl fmt::Debug for HttpSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSink").field("url", &self.shown).finish_non_exhaustive()
    }
}

impl HttpSink {
    /// A sink as configured, for one pipeline's sink. Connects to nothing yet.
    ///
    /// # Errors
    /// [`SinkError::Settings`] when the URL or a header cannot work.
    pub fn new(settings: &HttpSettings, pipeline: &str, sink: &str) -> Result<Self, SinkError> {
        let Checked { uri, headers, shown } =
            settings.check().map_err(|what| SinkError::Settings { what })?;
        let timeout = settings.timeout.duration();
        let agent = Agent::config_builder()
            .timeout_global(Some(timeout))
            .timeout_connect(Some(timeout.min(CONNECT_MAX)))
            // A redirected POST could lose its body or its secrets.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("piton/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Ok(Self {
            agent,
            uri,
            headers,
            shown,
            pipeline: pipeline.to_owned(),
            sink: sink.to_owned(),
            batch: settings.batch.get(),
            request: Request::default(),
            answered: Vec::new(),
            split: None,
            unanswered: None,
            asked_to_wait: None,
        })
    }

    /// Builds the request for the first rows of a range, at most `limit`.
    fn build(&mut self, batch: &Batch, rows: &Range<usize>, limit: usize) -> Result<(), SinkError> {
        let Self { request: Request { body, key, id, rows: taken }, pipeline, sink, .. } = self;
        let mut hash = Xxh3::new();
        let mut add = |text: &str| {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        };
        add(pipeline);
        add(sink);
        body.clear();
        *taken = 0;
        let mut write = || -> std::io::Result<()> {
            body.extend_from_slice(b"{\"pipeline\":");
            serde_json::to_writer(&mut *body, pipeline)?;
            body.extend_from_slice(b",\"sink\":");
            serde_json::to_writer(&mut *body, sink)?;
            body.extend_from_slice(b",\"records\":[");
            for row in rows.clone().take(limit) {
                if *taken > 0 {
                    body.push(b',');
                }
                id.clear();
                batch.write_id(row, id);
                add(id);
                body.extend_from_slice(b"{\"id\":");
                serde_json::to_writer(&mut *body, id)?;
                body.extend_from_slice(b",\"record\":");
                batch.write_json(row, body)?;
                body.push(b'}');
                *taken += 1;
                if body.len() >= BODY_BYTES {
                    break;
                }
            }
            body.extend_from_slice(b"]}");
            Ok(())
        };
        let written = write();
        *key = hash.digest128();
        written.map_err(|e| SinkError::Failed { what: format!("a record is not JSON: {e}") })
    }

    /// Posts the request that was built, unless it was answered before.
    fn post(&mut self) -> Answer {
        let key = self.request.key;
        if self.answered.contains(&key) {
            return Answer::Taken;
        }
        let left = self.asked_to_wait.map(|until| until.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            let seconds = left.as_secs_f64().ceil();
            let what = format!("{} asked to be left alone for {seconds} s more", self.shown);
            return Answer::Failed(SinkError::Unavailable { what });
        }
        self.asked_to_wait = None;
        let mut post = self.agent.post(&self.uri).header("Content-Type", "application/json");
        for (name, value) in &self.headers {
            post = post.header(name, value);
        }
        let sent =
            post.header("Idempotency-Key", format!("{key:032x}")).send(&self.request.body[..]);
        let answer = match sent {
            Ok(response) => self.judge(response),
            Err(error) => {
                let conflicts = self.conflicts();
                self.unanswered = Some((key, conflicts.unwrap_or(0)));
                return Answer::Failed(self.no_answer(&error));
            }
        };
        if let Answer::Taken = answer {
            self.answered.push(key);
        }
        answer
    }

    /// How often the present request was in conflict with an attempt without an answer, if there
    /// was one.
    fn conflicts(&self) -> Option<u32> {
        self.unanswered.filter(|(key, _)| *key == self.request.key).map(|(_, conflicts)| conflicts)
    }

    /// What an answer means.
    fn judge(&mut self, mut response: Response<Body>) -> Answer {
        let status = response.status();
        if status.is_success() {
            drain(response);
            return Answer::Taken;
        }
        let at = &self.shown;
        let why = reason(&mut response);
        let said = if why.is_empty() { String::new() } else { format!(": {why}") };
        let failed = |advice: &str| {
            let what = format!("{at} answered HTTP {status}{said}. {advice}");
            Answer::Failed(SinkError::Failed { what })
        };
        match status.as_u16() {
            300..=399 => {
                let target = response.headers().get("location").and_then(|v| v.to_str().ok());
                let target = target.and_then(|to| to.parse().ok()).map(|uri| shown(&uri));
                failed(&format!(
                    "Redirects are not followed: set `url` to {}",
                    target.unwrap_or_else(|| "the address it moved to".into())
                ))
            }
            408 | 425 | 429 | 500..=599 => {
                let wait = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
                let seconds = wait.and_then(|wait| wait.trim().parse().ok());
                self.asked_to_wait = seconds
                    .map(|seconds| Instant::now() + Duration::from_secs(seconds).min(WAIT_MAX));
                let wait = wait.map(|w| format!(", which asks to wait ({w})")).unwrap_or_default();
                let what = format!("{at} answered HTTP {status}{wait}{said}");
                Answer::Failed(SinkError::Unavailable { what })
            }
            // The first attempt, whose answer was lost, is still being worked on.
            409 if self.conflicts().is_some_and(|conflicts| conflicts < CONFLICTS_MAX) => {
                self.unanswered = self.unanswered.map(|(key, conflicts)| (key, conflicts + 1));
                let what = format!("{at} answered HTTP {status} to a request sent again{said}");
                Answer::Failed(SinkError::Unavailable { what })
            }
            401 | 403 | 407 => failed("Check the credentials in `headers` or `url`"),
            404 | 405 | 410 | 411 | 415 | 426 => failed("Check `url` and what it expects"),
            _ => Answer::Refused(format!("HTTP {}{said}", status.as_u16())),
        }
    }

    /// What it means that there is no answer. Errors of the client never hold the URL's secrets,
    /// except one that repeats it.
    fn no_answer(&self, error: &ureq::Error) -> SinkError {
        let at = &self.shown;
        match error {
            ureq::Error::BadUri(_) => {
                SinkError::Settings { what: "`url` is not one that can be posted to".into() }
            }
            ureq::Error::InvalidProxyUrl => SinkError::Settings {
                what: "the proxy in the environment (https_proxy, http_proxy) is not a URL".into(),
            },
            ureq::Error::Io(error) => {
                SinkError::Unavailable { what: format!("no answer from {at}: {error}") }
            }
            error => SinkError::Unavailable { what: format!("no answer from {at}: {error}") },
        }
    }

    /// Posts the rows of a refused request one by one. The rows before the one at fault are taken.
    fn post_singly(&mut self, batch: &Batch, rows: Range<usize>) -> Result<(), SinkError> {
        for row in rows {
            self.build(batch, &(row..row + 1), 1)?;
            match self.post() {
                Answer::Taken => {}
                Answer::Failed(error) => return Err(error),
                Answer::Refused(reason) => {
                    self.settle();
                    return Err(SinkError::BadRow { row, reason });
                }
            }
        }
        self.split = None;
        Ok(())
    }

    /// Everything so far is taken and will not be asked for again.
    fn settle(&mut self) {
        self.answered.clear();
        (self.split, self.unanswered) = (None, None);
    }
}

impl PlainSink for HttpSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee {
            what: "at least once",
            why: "a crash repeats what was posted since the last checkpoint. Every record has a \
                  stable id and every request an Idempotency-Key: a receiver that recognises them \
                  makes it exactly once"
                .into(),
        }
    }

    fn location(&self) -> String {
        self.shown.clone()
    }

    fn inspect(&mut self, resume: &Resume) -> Result<(), SinkError> {
        if resume.output == Some(Output::Truncate) {
            return Err(SinkError::Refused {
                what: format!(
                    "what was posted to {} cannot be taken back: use --keep, and records will \
                     repeat, with the same ids",
                    self.shown
                ),
            });
        }
        Ok(())
    }

    fn open(&mut self, resume: &Resume) -> Result<Durable, SinkError> {
        self.inspect(resume)?;
        self.settle();
        Ok(Durable { state: None })
    }

    fn write(&mut self, batch: &Batch, rows: Range<usize>) -> Result<Accepted, SinkError> {
        let accepted = Accepted { rows: rows.len() as u64 };
        fault::point("sink.begin");
        let mut rest = rows;
        while !rest.is_empty() {
            self.build(batch, &rest, self.batch)?;
            let part = rest.start..rest.start + self.request.rows;
            let key = self.request.key;
            let is_split = self.split == Some(key);
            match if is_split { Answer::Refused(String::new()) } else { self.post() } {
                Answer::Taken => {}
                Answer::Failed(error) => return Err(error),
                Answer::Refused(reason) if part.len() == 1 && !is_split => {
                    self.settle();
                    return Err(SinkError::BadRow { row: part.start, reason });
                }
                Answer::Refused(_) => {
                    self.split = Some(key);
                    self.post_singly(batch, part.clone())?;
                    self.answered.push(key);
                }
            }
            fault::point("sink.middle");
            rest.start = part.end;
        }
        self.settle();
        fault::point("sink.after");
        Ok(accepted)
    }

    fn present(&mut self) -> Result<Durable, SinkError> {
        Ok(Durable { state: None })
    }

    fn promise(&mut self) -> Result<Promise, SinkError> {
        Ok(Promise::kept(Durable { state: None }))
    }
}

/// Reads a short answer to its end, so that the connection can be used again.
fn drain(response: Response<Body>) {
    let is_short = response.body().content_length().is_none_or(|bytes| bytes <= ANSWER_BYTES);
    if is_short {
        // The status has been read: whatever happens now, the records are durable.
        let mut body = std::io::Read::take(response.into_body().into_reader(), ANSWER_BYTES);
        let _ = std::io::copy(&mut body, &mut std::io::sink());
    }
}

/// The beginning of a refusal's body, on one line.
fn reason(response: &mut Response<Body>) -> String {
    let mut bytes = Vec::new();
    let mut body = std::io::Read::take(response.body_mut().as_reader(), ANSWER_BYTES);
    // As much as came; the status alone will do.
    let _ = std::io::Read::read_to_end(&mut body, &mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(REASON_CHARS).collect()
}
