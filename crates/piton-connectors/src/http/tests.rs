use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{HttpSettings, HttpSink};
use crate::{
    batch::Batch,
    conformance::records,
    sink::{Durable, PlainSink, Resume, SinkError},
};

/// A request as the server saw it.
#[derive(Debug, Clone)]
struct Seen {
    path: String,
    headers: BTreeMap<String, String>,
    body: Value,
}

impl Seen {
    fn ids(&self) -> Vec<&str> {
        let records = self.body["records"].as_array().unwrap();
        records.iter().map(|record| record["id"].as_str().unwrap()).collect()
    }

    fn key(&self) -> &str {
        &self.headers["idempotency-key"]
    }
}

enum Answer {
    Status(u16, &'static str, String),
    /// The connection is closed after these bytes.
    Cut(&'static str),
    /// Nothing comes.
    Hang,
}

fn status(status: u16) -> Answer {
    Answer::Status(status, "", String::new())
}

/// A server that answers as it is told; `nth` counts requests from 0.
struct Server {
    url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    fn start(answer: impl Fn(usize, &Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/in", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (all, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (all, answer) = (Arc::clone(&all), Arc::clone(&answer));
                thread::spawn(move || serve(stream.unwrap(), &all, &*answer));
            }
        });
        Self { url, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn ids(&self) -> Vec<Vec<String>> {
        let ids = |seen: &Seen| seen.ids().into_iter().map(str::to_owned).collect();
        self.seen().iter().map(ids).collect()
    }
}

fn serve(stream: TcpStream, all: &Mutex<Vec<Seen>>, answer: &dyn Fn(usize, &Seen) -> Answer) {
    let mut writer = stream.try_clone().unwrap();
    let mut reader = BufReader::new(stream);
    while let Some(seen) = receive(&mut reader) {
        let nth = {
            let mut all = all.lock().unwrap();
            all.push(seen.clone());
            all.len() - 1
        };
        match answer(nth, &seen) {
            Answer::Status(status, headers, body) => {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} Any\r\n{headers}Content-Length: {length}");
                if write!(writer, "{head}\r\n\r\n{body}").is_err() {
                    return;
                }
            }
            Answer::Cut(bytes) => {
                writer.write_all(bytes.as_bytes()).unwrap();
                return;
            }
            Answer::Hang => thread::sleep(Duration::from_secs(20)),
        }
    }
}

fn receive(reader: &mut BufReader<TcpStream>) -> Option<Seen> {
    let mut line = String::new();
    let mut next = |reader: &mut BufReader<TcpStream>| {
        line.clear();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        Some(line.trim_end().to_owned())
    };
    let path = next(reader)?.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let line = next(reader)?;
        let Some((name, value)) = line.split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some(Seen { path, headers, body: serde_json::from_slice(&body).unwrap() })
}

fn sink(url: &str, more: Value) -> HttpSink {
    let mut settings = more;
    settings["url"] = json!(url);
    let settings: HttpSettings = serde_json::from_value(settings).unwrap();
    let mut sink = HttpSink::new(&settings, "p", "s").unwrap();
    assert_eq!(sink.open(&Resume::default()).unwrap(), Durable { state: None });
    sink
}

fn rows(count: i64) -> Batch {
    records("a.csv", &(1..=count).map(Some).collect::<Vec<_>>())
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, SinkError>) -> String {
    match result {
        Err(SinkError::Unavailable { what }) => what,
        other => panic!("expected it to be unavailable, got {other:?}"),
    }
}

fn failed<T: std::fmt::Debug>(result: Result<T, SinkError>) -> String {
    match result {
        Err(SinkError::Failed { what }) => what,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn records_are_posted_with_ids_and_a_key_that_a_replay_repeats() {
    let server = Server::start(|_, _| status(204));
    let post = |pipeline: &str, batch: &Batch| {
        let settings: HttpSettings =
            serde_json::from_value(json!({"url": server.url, "batch": 2, "headers": {"X-A": "b"}}))
                .unwrap();
        let mut sink = HttpSink::new(&settings, pipeline, "s").unwrap();
        assert_eq!(sink.write(batch, 0..batch.rows()).unwrap().rows, batch.rows() as u64);
        let _ = sink.durable().unwrap();
    };
    post("p", &rows(3));
    post("p", &rows(3));
    post("other", &rows(3));
    let seen = server.seen();
    assert_eq!(seen[0].path, "/in");
    let wanted = json!({"pipeline": "p", "sink": "s", "records": [
        {"id": "a.csv@0", "record": {"id": 1, "name": "name 1"}},
        {"id": "a.csv@1", "record": {"id": 2, "name": "name 2"}},
    ]});
    assert_eq!(seen[0].body, wanted);
    assert_eq!(seen[1].ids(), ["a.csv@2"]);
    assert_eq!(seen[0].headers["content-type"], "application/json");
    assert_eq!(seen[0].headers["x-a"], "b");
    let keys: Vec<&str> = seen.iter().map(Seen::key).collect();
    assert_eq!(keys[0].len(), 32);
    assert_eq!(keys[..2], keys[2..4], "a replay has the same keys");
    assert_ne!(keys[0], keys[1]);
    assert_ne!(keys[0], keys[4], "another pipeline's records have other keys");
}

#[test]
fn a_slow_answer_is_waited_for_and_a_hung_one_is_not() {
    let server = Server::start(|nth, _| match nth {
        0 => {
            thread::sleep(Duration::from_millis(2500));
            status(200)
        }
        _ => Answer::Hang,
    });
    let mut slow = sink(&server.url, json!({}));
    assert_eq!(slow.write(&rows(2), 0..2).unwrap().rows, 2);
    let mut hung = sink(&server.url, json!({"timeout": "700ms"}));
    let since = Instant::now();
    let what = unavailable(hung.write(&rows(2), 0..2));
    assert!(what.contains("timeout"), "{what}");
    let waited = since.elapsed();
    assert!((700..3000).contains(&waited.as_millis()), "{waited:?}");
}

#[test]
fn a_receiver_that_is_down_is_tried_again_without_repeating_what_it_has() {
    let server = Server::start(|nth, _| match nth {
        1 => Answer::Status(503, "Retry-After: 0\r\n", "resting\nnow".into()),
        2 => Answer::Cut("HTTP/1.1 20"),
        3 => Answer::Cut(""),
        4 => status(429),
        _ => status(200),
    });
    let mut sink = sink(&server.url, json!({"batch": 2}));
    let batch = rows(6);
    let what = unavailable(sink.write(&batch, 0..6));
    assert!(what.contains("HTTP 503") && what.contains("asks to wait (0)"), "{what}");
    assert!(what.ends_with("resting now"), "{what}");
    for _ in 0..3 {
        unavailable(sink.write(&batch, 0..6));
    }
    assert_eq!(sink.write(&batch, 0..6).unwrap().rows, 6);
    let part =
        |range: std::ops::Range<u64>| range.map(|n| format!("a.csv@{n}")).collect::<Vec<_>>();
    let tries =
        [part(0..2), part(2..4), part(2..4), part(2..4), part(2..4), part(2..4), part(4..6)];
    assert_eq!(server.ids(), tries);
    // What was taken whole is forgotten: the same rows are posted again when asked for.
    let _ = sink.write(&batch, 0..2).unwrap();
    assert_eq!(server.seen().len(), 8);
}

#[test]
fn a_receiver_that_asks_to_wait_is_left_alone() {
    let server = Server::start(|nth, _| match nth {
        0 => Answer::Status(429, "Retry-After: 1\r\n", String::new()),
        _ => status(200),
    });
    let mut sink = sink(&server.url, json!({}));
    let began = Instant::now();
    let mut tries = 0;
    while let Err(error) = sink.write(&rows(2), 0..2).map(drop) {
        assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
        tries += 1;
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(tries > 1 && began.elapsed().as_secs_f64() >= 1.0);
    assert_eq!(server.seen().len(), 2, "not one request more");
}

#[test]
fn no_connection_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let what = unavailable(sink(&url, json!({})).write(&rows(1), 0..1));
    assert!(what.contains(&url) && what.to_lowercase().contains("refused"), "{what}");
    let unknown = "http://no-such-host.invalid/";
    unavailable(sink(unknown, json!({"timeout": "5s"})).write(&rows(1), 0..1));
}

#[test]
fn a_record_at_fault_is_found_and_the_others_are_taken() {
    let server = Server::start(|nth, seen| match seen.ids().contains(&"a.csv@3") {
        true => Answer::Status(422, "", "x".repeat(5000)),
        // In the middle of the search it is down.
        false if nth == 3 => status(503),
        false => status(201),
    });
    let mut sink = sink(&server.url, json!({"batch": 5}));
    let batch = rows(6);
    unavailable(sink.write(&batch, 0..6));
    let (row, reason) = match sink.write(&batch, 0..6) {
        Err(SinkError::BadRow { row, reason }) => (row, reason),
        other => panic!("{other:?}"),
    };
    assert_eq!((row, reason), (3, format!("HTTP 422: {}", "x".repeat(200))));
    assert_eq!(sink.write(&batch, 4..6).unwrap().rows, 2);
    let mut singles: Vec<String> =
        server.ids().into_iter().filter(|ids| ids.len() == 1).flatten().collect();
    assert_eq!(singles, ["a.csv@0", "a.csv@1", "a.csv@2", "a.csv@2", "a.csv@3"]);
    singles.clear();
    assert_eq!(server.ids().last().unwrap(), &["a.csv@4", "a.csv@5"]);
}

#[test]
fn records_that_are_only_refused_together_are_taken_singly() {
    let server = Server::start(|_, seen| status(if seen.ids().len() > 1 { 413 } else { 200 }));
    let mut sink = sink(&server.url, json!({"batch": 3}));
    assert_eq!(sink.write(&rows(4), 0..4).unwrap().rows, 4);
    assert_eq!(server.ids().concat().len(), 3 + 3 + 1);
}

#[test]
fn a_refusal_that_no_record_can_help_stops() {
    for (code, headers, wanted) in [
        (401, "", "credentials"),
        (403, "", "credentials"),
        (404, "", "Check `url`"),
        (405, "", "Check `url`"),
        (
            308,
            "Location: https://u:secret@new.example/in?token=secret\r\n",
            "https://new.example/in?…",
        ),
        (302, "", "the address it moved to"),
    ] {
        let server = Server::start(move |_, _| Answer::Status(code, headers, "why".into()));
        let what = failed(sink(&server.url, json!({})).write(&rows(2), 0..2));
        assert!(what.contains(wanted) && what.contains(&code.to_string()), "{what}");
        assert!(!what.contains("secret"), "{what}");
        assert_eq!(server.seen().len(), 1, "nothing is posted again");
    }
}

#[test]
fn a_conflict_with_an_attempt_without_an_answer_is_not_a_bad_record() {
    let server = Server::start(|nth, _| match nth {
        0 => Answer::Cut(""),
        2 => status(200),
        _ => status(409),
    });
    let mut sink = sink(&server.url, json!({}));
    let mut write = || sink.write(&rows(1), 0..1);
    unavailable(write());
    unavailable(write());
    let _ = write().unwrap();
    assert!(matches!(write(), Err(SinkError::BadRow { row: 0, .. })), "no attempt is open");
}

#[test]
fn a_conflict_that_stays_is_about_the_record() {
    let server = Server::start(|nth, _| if nth == 0 { Answer::Cut("") } else { status(409) });
    let mut sink = sink(&server.url, json!({}));
    for _ in 0..6 {
        unavailable(sink.write(&rows(1), 0..1));
    }
    let stays = sink.write(&rows(1), 0..1);
    assert!(matches!(stays, Err(SinkError::BadRow { row: 0, .. })), "{stays:?}");
}

/// Invariant 8: a request is bounded in bytes, whatever `batch` says.
#[test]
fn large_records_are_spread_over_requests() {
    let server = Server::start(|_, _| status(200));
    let like = rows(12);
    let schema = Arc::clone(&like.schema);
    let mut batch = Batch::new("a.csv".into(), schema, like.end.clone(), Arc::clone(&like.marks));
    let text = "x".repeat(1024 * 1024);
    for row in 0..12 {
        batch.begin_row(like.origin(row));
        batch.push(crate::batch::Value::Text(&text));
    }
    assert_eq!(sink(&server.url, json!({})).write(&batch, 0..12).unwrap().rows, 12);
    assert_eq!(server.ids().iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 4]);
}

#[test]
fn secrets_are_sent_and_never_shown() {
    let server = Server::start(|_, _| status(500));
    let url = server.url.replace("http://", "http://user:secret@") + "?token=secret";
    let settings = json!({"url": url, "headers": {"X-Key": "secret"}});
    let settings: HttpSettings = serde_json::from_value(settings).unwrap();
    let mut sink = HttpSink::new(&settings, "p", "s").unwrap();
    let what = unavailable(sink.write(&rows(1), 0..1));
    for text in [what, sink.location(), format!("{sink:?} {settings:?}")] {
        assert!(!text.contains("secret") && text.contains("/in?…"), "{text}");
    }
    let seen = &server.seen()[0];
    assert_eq!(seen.headers["authorization"], "Basic dXNlcjpzZWNyZXQ=");
    assert_eq!(
        (seen.headers["x-key"].as_str(), seen.path.as_str()),
        ("secret", "/in?token=secret")
    );
}

#[test]
fn settings_that_cannot_work_are_refused() {
    for (settings, wanted) in [
        (json!({"url": "ftp://a/b"}), "http://HOST"),
        (json!({"url": "/relative"}), "http://HOST"),
        (json!({"url": "http://a b/"}), "not a URL"),
        (json!({"url": "http://a/", "headers": {"a b": "c"}}), "is not a header's name"),
        (json!({"url": "http://a/", "headers": {"a": "secret\n"}}), "'a' has a value"),
        (json!({"url": "http://a/", "headers": {"Idempotency-Key": "1"}}), "set by piton itself"),
    ] {
        let settings: HttpSettings = serde_json::from_value(settings).unwrap();
        match HttpSink::new(&settings, "p", "s") {
            Err(SinkError::Settings { what }) => {
                assert!(what.contains(wanted) && !what.contains("secret"), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }
    for wrong in [
        json!({"url": "http://a/", "batch": 0}),
        json!({"url": "http://a/", "timeout": 30}),
        json!({"url": "http://a/", "header": {}}),
    ] {
        assert!(serde_json::from_value::<HttpSettings>(wrong).is_err());
    }
}

#[test]
fn what_was_posted_cannot_be_cut() {
    let mut sink = sink("http://127.0.0.1:9/", json!({}));
    let resume = Resume { output: Some(piton_core::Output::Truncate), ..Resume::default() };
    assert!(matches!(sink.inspect(&resume), Err(SinkError::Refused { .. })));
}
