//! The example in `examples/rest`, against a server that has pages and sometimes fails.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use piton_testkit::{ledger::rows_in_sqlite, program::PATIENCE};

use crate::place::Place;

const ORDERS: u64 = 10_000;
const PAGE: u64 = 100;

/// Serves `GET /orders?after=N&limit=M`; every tenth request fails.
fn serve(listener: &TcpListener, requests: &AtomicU64) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        let _ = answer(stream, requests.fetch_add(1, Ordering::Relaxed) + 1);
    }
}

fn answer(mut stream: TcpStream, request: u64) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    thread::sleep(Duration::from_millis(5));
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let query = first.split(['?', ' ']).nth(2).unwrap_or_default();
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map_or(0, |(_, value)| value.parse().unwrap_or(0))
    };
    let (after, limit): (u64, u64) = (value("after"), value("limit"));
    let orders: Vec<String> = (after + 1..=ORDERS.min(after + limit))
        .map(|id| format!("{{\"id\": {id}, \"customer\": \"customer {}\"}}", id % 17))
        .collect();
    let (status, body) = match request % 10 {
        0 => ("503 Service Unavailable", "busy".to_owned()),
        _ => ("200 OK", format!("{{\"orders\": [{}]}}", orders.join(", "))),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[test]
fn the_example_pages_through_an_api_and_goes_on_after_kills() {
    if Command::new("python3").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "python3 is needed here");
        eprintln!("skipped: there is no python3");
        return;
    }
    let place = Place::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/rest");
    std::fs::copy(example.join("orders.py"), place.path("orders.py")).unwrap();
    // Saved often, so that little is repeated.
    let yaml = std::fs::read_to_string(example.join("orders.yaml")).unwrap();
    place.write("orders.yaml", &format!("{yaml}checkpoint: {{records: 300}}\n"));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    let requests = Arc::<AtomicU64>::default();
    let counts = Arc::clone(&requests);
    thread::spawn(move || serve(&listener, &counts));

    let program = place.program.clone().with("API", &api);
    let run = &["run", "orders.yaml"];
    let rows = || rows_in_sqlite(&place.path("orders.db"), "orders");
    for _ in 0..3 {
        let mut running = program.start(run).unwrap();
        let before = rows();
        running.until("some pages", PATIENCE, |_| rows() > before + 5 * PAGE).unwrap();
        running.kill().unwrap();
    }
    program.run_to(0, run).unwrap();
    assert_eq!(rows(), ORDERS);
    let served = requests.load(Ordering::Relaxed);
    // A tenth fails and is asked for again; each kill repeats what was read ahead.
    assert!(served < 3 * ORDERS / PAGE, "{served} requests");
}
