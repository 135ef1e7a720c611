//! A receiver of HTTP requests that misbehaves on command.
//!
//! It keeps what a real receiver would have taken: a request counts as received when it was read
//! whole and the receiver was not refusing, hanging or gone at that moment, whether or not the
//! sender lived to hear the answer.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

/// How often a waiting thread looks whether the mode has changed.
const LOOK: Duration = Duration::from_millis(10);
/// The largest request that is read, in bytes.
const REQUEST_MAX: usize = 64 << 20;

/// How the receiver behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Takes requests and answers 200 at once.
    Answering,
    /// Takes requests and answers 200 after a while.
    Slow(Duration),
    /// Reads requests and goes no further until the mode changes, like a stopped process.
    Hanging,
    /// Answers 503 and takes nothing.
    Refusing,
    /// Closes its port and every connection.
    Down,
}

/// A request that was received.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The path of the URL.
    pub path: String,
    /// The header `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// The body.
    pub body: Value,
}

/// A receiver on a port of its own at 127.0.0.1. Dropped, it is gone.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    over: bool,
    requests: u64,
    received: Vec<Delivery>,
}

impl Receiver {
    /// Starts a receiver that answers.
    ///
    /// # Errors
    /// What binding a port may fail with.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = State { mode: Mode::Answering, over: false, requests: 0, received: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let listening = Some(thread::spawn(move || listen(address, listener, &shared)));
        Ok(Self { address, state, listening })
    }

    /// Its URL, with the path `/`.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Changes how it behaves.
    pub fn set(&self, mode: Mode) {
        lock(&self.state).mode = mode;
    }

    /// How many requests have been read whole, refused and hanging ones counted.
    pub fn requests(&self) -> u64 {
        lock(&self.state).requests
    }

    /// What has been received so far, in order.
    pub fn received(&self) -> Vec<Delivery> {
        lock(&self.state).received.clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        lock(&self.state).over = true;
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The mode, or none when the receiver is over.
fn mode_of(state: &Mutex<State>) -> Option<Mode> {
    let state = lock(state);
    (!state.over).then_some(state.mode)
}

/// Accepts connections; gives up the port while the receiver is down.
fn listen(address: SocketAddr, first: TcpListener, state: &Arc<Mutex<State>>) {
    let mut listener = Some(first);
    while let Some(mode) = mode_of(state) {
        if mode == Mode::Down {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(address).ok();
        }
        let accepted = listener.as_ref().and_then(|listener| {
            listener.set_nonblocking(true).ok()?;
            listener.accept().ok()
        });
        match accepted {
            Some((stream, _)) => {
                let state = Arc::clone(state);
                thread::spawn(move || converse(stream, &state));
            }
            None => thread::sleep(LOOK),
        }
    }
}

/// Answers the requests of one connection. Any failure ends it, as a sender would see it.
fn converse(mut stream: TcpStream, state: &Mutex<State>) {
    if stream.set_nonblocking(false).is_err() || stream.set_read_timeout(Some(LOOK)).is_err() {
        return;
    }
    let mut unread = Vec::new();
    while let Ok(Some(request)) = read_request(&mut stream, &mut unread, state) {
        let Some(answer) = answer(request, state) else { return };
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// Decides what becomes of a request. None closes the connection without an answer.
fn answer(request: Delivery, state: &Mutex<State>) -> Option<String> {
    lock(state).requests += 1;
    let mut mode = mode_of(state)?;
    while mode == Mode::Hanging {
        thread::sleep(LOOK);
        mode = mode_of(state)?;
    }
    let status = match mode {
        Mode::Down | Mode::Hanging => return None,
        Mode::Refusing => "503 Service Unavailable",
        Mode::Answering => {
            lock(state).received.push(request);
            "200 OK"
        }
        Mode::Slow(wait) => {
            lock(state).received.push(request);
            stay(wait, state)?;
            "200 OK"
        }
    };
    Some(format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
    ))
}

/// Waits, unless the receiver goes down meanwhile.
fn stay(wait: Duration, state: &Mutex<State>) -> Option<()> {
    let began = Instant::now();
    while began.elapsed() < wait {
        if mode_of(state)? == Mode::Down {
            return None;
        }
        thread::sleep(LOOK.min(wait));
    }
    Some(())
}

/// Reads one request whole; none at the end of the connection or when the receiver goes down.
fn read_request(
    stream: &mut TcpStream,
    unread: &mut Vec<u8>,
    state: &Mutex<State>,
) -> io::Result<Option<Delivery>> {
    let mut piece = [0; 1 << 14];
    loop {
        if let Some((request, length)) = parse(unread)? {
            unread.drain(..length);
            return Ok(Some(request));
        }
        if unread.len() > REQUEST_MAX {
            return Err(io::Error::other("the request is too large"));
        }
        match stream.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(read) => unread.extend_from_slice(&piece[..read]),
            Err(error) if is_timeout(&error) => {
                if matches!(mode_of(state), None | Some(Mode::Down)) {
                    return Ok(None);
                }
            }
            Err(error) => return Err(error),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The request at the beginning of these bytes and its length, when it is there whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(Delivery, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let head = match request.parse(bytes).map_err(io::Error::other)? {
        httparse::Status::Complete(head) => head,
        httparse::Status::Partial => return Ok(None),
    };
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok()
    };
    let length: usize = header("Content-Length")
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| io::Error::other("this receiver needs a Content-Length"))?;
    let Some(body) = bytes.get(head..head + length) else { return Ok(None) };
    let delivery = Delivery {
        path: request.path.unwrap_or_default().to_owned(),
        idempotency_key: header("Idempotency-Key").map(str::to_owned),
        body: serde_json::from_slice(body).map_err(io::Error::other)?,
    };
    Ok(Some((delivery, head + length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn post(receiver: &Receiver, number: u32, patience: Duration) -> io::Result<String> {
        let mut stream = TcpStream::connect(receiver.address)?;
        stream.set_read_timeout(Some(patience))?;
        let body = format!("{{\"n\":{number}}}");
        let head = format!(
            "POST /in HTTP/1.1\r\nidempotency-key: k{number}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        // In two pieces: a request need not arrive at once.
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = vec![0; 15];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer[9..12]).into_owned())
    }

    const SHORT: Duration = Duration::from_millis(150);
    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn it_takes_answers_and_refuses() {
        let receiver = Receiver::start().unwrap();
        assert_eq!(post(&receiver, 1, LONG).unwrap(), "200");
        receiver.set(Mode::Refusing);
        assert_eq!(post(&receiver, 2, LONG).unwrap(), "503");
        let delivery = Delivery {
            path: "/in".into(),
            idempotency_key: Some("k1".into()),
            body: json!({"n": 1}),
        };
        assert_eq!(receiver.received(), [delivery]);
        assert_eq!(receiver.requests(), 2);
    }

    #[test]
    fn it_is_slow_and_has_taken_the_request_before_it_answers() {
        let receiver = Receiver::start().unwrap();
        receiver.set(Mode::Slow(SHORT * 4));
        assert!(post(&receiver, 1, SHORT).is_err());
        assert_eq!(receiver.received().len(), 1);
        assert_eq!(post(&receiver, 2, LONG).unwrap(), "200");
    }

    #[test]
    fn it_hangs_until_it_is_let_go() {
        let receiver = Receiver::start().unwrap();
        receiver.set(Mode::Hanging);
        assert!(post(&receiver, 1, SHORT).is_err());
        assert_eq!((receiver.requests(), receiver.received().len()), (1, 0));
        receiver.set(Mode::Answering);
        assert_eq!(post(&receiver, 2, LONG).unwrap(), "200");
    }

    #[test]
    fn it_goes_down_and_comes_back_at_the_same_port() {
        let receiver = Receiver::start().unwrap();
        receiver.set(Mode::Down);
        let began = Instant::now();
        while post(&receiver, 1, SHORT).is_ok() {
            assert!(began.elapsed() < LONG);
        }
        thread::sleep(LOOK * 5);
        let refused = post(&receiver, 1, SHORT).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        receiver.set(Mode::Answering);
        let began = Instant::now();
        while post(&receiver, 2, LONG).is_err() {
            assert!(began.elapsed() < LONG);
        }
    }
}
