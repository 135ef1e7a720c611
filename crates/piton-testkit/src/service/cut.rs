//! A network that fails on command, in front of any server.
//!
//! What makes a lost connection hard is what was under way: a COMMIT that never arrived and one
//! that was done but not heard of look the same from the client. So this proxy cuts at an exact
//! byte, or at a text that the client sends, before the server has it or after the server has
//! answered it. It knows nothing of any protocol, and sees no text within TLS.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use memchr::memmem;

/// The most bytes that are passed on at a time.
const PIECE: usize = 1 << 16;

/// A TCP proxy. Connections through it pass unchanged until it is told otherwise; a plan to cut
/// replaces the one before, and is over once it has cut. Dropped, it cuts all.
#[derive(Debug)]
pub struct Cut {
    server: SocketAddr,
    address: SocketAddr,
    wire: Arc<Wire>,
    listening: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Wire {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    hold: Hold,
    refusing: bool,
    over: bool,
    /// Bytes that went to the server, and that came from it and were passed on.
    sent: u64,
    answered: u64,
    cuts: u64,
    /// Pieces that are held back at this moment.
    held: usize,
    opened: u64,
    open: BTreeMap<u64, [TcpStream; 2]>,
}

#[derive(Debug, Default)]
enum Plan {
    #[default]
    Pass,
    CutAtSent(u64),
    CutAtAnswered(u64),
    LoseRequest(Vec<u8>),
    LoseAnswer(Vec<u8>),
    HoldAnswer(Vec<u8>),
    /// The text has gone to the server on this connection.
    CutAtAnswerOn(u64),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Hold {
    #[default]
    Nothing,
    Answers,
    Everything,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToServer,
    ToClient,
}

/// What becomes of a piece: how many of its bytes are passed, and whether all is cut then.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    pass: usize,
    cut: bool,
}

impl Cut {
    /// A proxy at a port of its own in front of a server, which need not be there yet.
    ///
    /// # Errors
    /// What binding a port may fail with.
    pub fn before(server: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let wire = Arc::new(Wire::default());
        let shared = Arc::clone(&wire);
        let listening = thread::spawn(move || listen(&listener, server, &shared));
        Ok(Self { server, address, wire, listening: Some(listening) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A URL of the server's, through the proxy.
    pub fn url(&self, url: &str) -> String {
        url.replace(&self.server.to_string(), &self.address.to_string())
    }

    /// Cuts all connections, and drops what is held back. New ones are taken.
    pub fn now(&self) {
        self.wire.change(State::cut);
    }

    /// Cuts all connections once this many more bytes have gone to the server: those arrive, no
    /// further one does.
    pub fn after_sent(&self, bytes: u64) {
        self.wire.change(|state| state.plan = Plan::CutAtSent(state.sent + bytes));
    }

    /// Cuts all connections once this many more bytes have come back.
    pub fn after_answered(&self, bytes: u64) {
        self.wire.change(|state| state.plan = Plan::CutAtAnswered(state.answered + bytes));
    }

    /// Cuts all connections when a client sends this text, such as `COMMIT`: the server never
    /// gets it whole.
    pub fn lose_request(&self, text: &str) {
        self.wire.change(|state| state.plan = Plan::LoseRequest(text.into()));
    }

    /// Cuts all connections when the server has answered to this text: it has done what was
    /// asked, and the client never hears of it. The answer is the first that comes on that
    /// connection after the text has gone: a client that sends its next request without waiting
    /// for the answer to the last one may lose that.
    pub fn lose_answer(&self, text: &str) {
        self.wire.change(|state| state.plan = Plan::LoseAnswer(text.into()));
    }

    /// Begins to [`hold_answers`](Self::hold_answers) when a client sends this text: the server
    /// does what was asked, and the client waits while the test does something else.
    pub fn hold_answer(&self, text: &str) {
        self.wire.change(|state| state.plan = Plan::HoldAnswer(text.into()));
    }

    /// Holds answers back until [`let_go`](Self::let_go): requests arrive and are done.
    pub fn hold_answers(&self) {
        self.wire.change(|state| state.hold = Hold::Answers);
    }

    /// Holds both directions: connections stay open and are silent, as when a cable is pulled.
    pub fn hold(&self) {
        self.wire.change(|state| state.hold = Hold::Everything);
    }

    /// Passes on what was held back, in order.
    pub fn let_go(&self) {
        self.wire.change(|state| state.hold = Hold::Nothing);
    }

    /// Whether something is held back at this moment.
    pub fn is_holding(&self) -> bool {
        self.wire.lock().held > 0
    }

    /// Closes new connections at once, or takes them again. Those that are open stay.
    pub fn refuse(&self, refusing: bool) {
        self.wire.change(|state| state.refusing = refusing);
    }

    /// How many bytes have gone to the server.
    pub fn sent(&self) -> u64 {
        self.wire.lock().sent
    }

    /// How many bytes have come back and were passed on.
    pub fn answered(&self) -> u64 {
        self.wire.lock().answered
    }

    /// How often connections were cut. A test whose plan never struck proves nothing.
    pub fn cuts(&self) -> u64 {
        self.wire.lock().cuts
    }

    /// How many connections were opened.
    pub fn connections(&self) -> u64 {
        self.wire.lock().opened
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        self.wire.change(|state| {
            state.over = true;
            state.cut();
        });
        // So that it stops waiting for one.
        let _ = TcpStream::connect(self.address);
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl Wire {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Decides on a piece once nothing holds it back. None when the connection was cut meanwhile.
    fn admit(&self, id: u64, way: Way, piece: &[u8], recent: &[u8]) -> Option<Verdict> {
        let mut state = self.lock();
        while state.holds(way) && state.open.contains_key(&id) {
            state.held += 1;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.held -= 1;
        }
        state.open.contains_key(&id).then(|| state.judge(id, way, piece, recent))
    }
}

impl State {
    fn holds(&self, way: Way) -> bool {
        match self.hold {
            Hold::Nothing => false,
            Hold::Answers => way == Way::ToClient,
            Hold::Everything => true,
        }
    }

    fn judge(&mut self, id: u64, way: Way, piece: &[u8], recent: &[u8]) -> Verdict {
        let all = Verdict { pass: piece.len(), cut: false };
        let nothing = Verdict { pass: 0, cut: true };
        let until = |limit: u64, passed: u64| {
            let left = usize::try_from(limit.saturating_sub(passed)).unwrap_or(usize::MAX);
            Verdict { pass: left.min(piece.len()), cut: left <= piece.len() }
        };
        let verdict = match (&self.plan, way) {
            (Plan::CutAtSent(limit), Way::ToServer) => until(*limit, self.sent),
            (Plan::CutAtAnswered(limit), Way::ToClient) => until(*limit, self.answered),
            (Plan::LoseRequest(text), Way::ToServer) if is_new(text, recent, piece) => nothing,
            (Plan::CutAtAnswerOn(awaited), Way::ToClient) if *awaited == id => nothing,
            (Plan::LoseAnswer(text), Way::ToServer) if is_new(text, recent, piece) => {
                self.plan = Plan::CutAtAnswerOn(id);
                all
            }
            (Plan::HoldAnswer(text), Way::ToServer) if is_new(text, recent, piece) => {
                (self.plan, self.hold) = (Plan::Pass, Hold::Answers);
                all
            }
            _ => all,
        };
        match way {
            Way::ToServer => self.sent += verdict.pass as u64,
            Way::ToClient => self.answered += verdict.pass as u64,
        }
        verdict
    }

    fn cut(&mut self) {
        self.plan = Plan::Pass;
        self.cuts += 1;
        for stream in std::mem::take(&mut self.open).into_values().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Whether a text ends in a piece; `recent` is what went before. One that lay wholly before the
/// piece does not count: the plan is younger.
fn is_new(text: &[u8], recent: &[u8], piece: &[u8]) -> bool {
    let before = &recent[recent.len().saturating_sub(text.len().saturating_sub(1))..];
    memmem::find(&[before, piece].concat(), text).is_some()
}

fn listen(listener: &TcpListener, server: SocketAddr, wire: &Arc<Wire>) {
    while let Ok((client, _)) = listener.accept() {
        let refusing = {
            let state = wire.lock();
            if state.over {
                return;
            }
            state.refusing
        };
        if !refusing {
            // A client whose server is not there sees its connection close.
            let _ = open(client, server, wire);
        }
    }
}

fn open(client: TcpStream, server: SocketAddr, wire: &Arc<Wire>) -> io::Result<()> {
    let server = TcpStream::connect(server)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let kept = [client.try_clone()?, server.try_clone()?];
    let back = [server.try_clone()?, client.try_clone()?];
    let id = {
        let mut state = wire.lock();
        state.opened += 1;
        let id = state.opened;
        state.open.insert(id, kept);
        id
    };
    for (way, [from, to]) in [(Way::ToServer, [client, server]), (Way::ToClient, back)] {
        let wire = Arc::clone(wire);
        thread::spawn(move || {
            let _ = pass(id, way, &from, &to, &wire);
            match way {
                // The server may still have something to say.
                Way::ToServer => drop(to.shutdown(Shutdown::Write)),
                Way::ToClient => close(id, &wire),
            }
        });
    }
    Ok(())
}

fn close(id: u64, wire: &Wire) {
    wire.change(|state| {
        for stream in state.open.remove(&id).into_iter().flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
}

/// Passes one direction of a connection until it ends or is cut.
fn pass(
    id: u64,
    way: Way,
    mut from: &TcpStream,
    mut to: &TcpStream,
    wire: &Wire,
) -> io::Result<()> {
    let mut buffer = vec![0; PIECE];
    let mut recent = Vec::new();
    loop {
        let read = from.read(&mut buffer)?;
        let piece = &buffer[..read];
        if read == 0 {
            return Ok(());
        }
        let Some(verdict) = wire.admit(id, way, piece, &recent) else { return Ok(()) };
        to.write_all(&piece[..verdict.pass])?;
        if verdict.cut {
            wire.change(State::cut);
            return Ok(());
        }
        // More than any text that a test looks for.
        recent.extend_from_slice(piece);
        recent.drain(..recent.len().saturating_sub(1 << 10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each line with `<line>`, and how many lines it has had.
    fn echo() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        use std::io::{BufRead, BufReader};
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let had = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&had);
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let lines = Arc::clone(&lines);
                thread::spawn(move || {
                    let reader = BufReader::new(stream.try_clone().unwrap());
                    for line in reader.lines().map_while(Result::ok) {
                        lines.lock().unwrap().push(line.clone());
                        let _ = writeln!(stream, "<{line}>");
                    }
                });
            }
        });
        (address, had)
    }

    struct Client(TcpStream);

    impl Client {
        fn of(cut: &Cut) -> Self {
            let stream = TcpStream::connect(cut.address()).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            Self(stream)
        }

        /// All that comes back until the end of a line or of the connection.
        fn ask(&mut self, line: &str) -> String {
            let _ = writeln!(self.0, "{line}");
            self.hear()
        }

        fn hear(&mut self) -> String {
            let mut heard = Vec::new();
            let mut byte = [0];
            while matches!(self.0.read(&mut byte), Ok(1)) && byte != *b"\n" {
                heard.push(byte[0]);
            }
            String::from_utf8(heard).unwrap()
        }
    }

    fn had(lines: &Mutex<Vec<String>>) -> Vec<String> {
        lines.lock().unwrap().clone()
    }

    #[test]
    fn it_passes_and_cuts_at_the_byte() {
        let (server, lines) = echo();
        let cut = Cut::before(server).unwrap();
        let url = format!("x://{server}/d");
        assert_eq!(cut.url(&url), format!("x://{}/d", cut.address()));
        let mut client = Client::of(&cut);
        assert_eq!(client.ask("one"), "<one>");
        assert_eq!((cut.sent(), cut.answered(), cut.cuts()), (4, 6, 0));

        cut.after_answered(3);
        let mut other = Client::of(&cut);
        while cut.connections() < 2 {
            thread::yield_now();
        }
        assert_eq!(client.ask("two"), "<tw");
        // All connections, not just the one whose byte it was.
        assert_eq!(other.hear(), "");
        assert_eq!((cut.answered(), cut.cuts()), (9, 1));

        let mut client = Client::of(&cut);
        cut.after_sent(10);
        assert_eq!(client.ask("three"), "<three>");
        assert_eq!(client.ask("never whole"), "");
        assert_eq!((cut.sent(), cut.cuts(), cut.connections()), (18, 2, 3));
        assert!(!had(&lines).contains(&"never whole".to_owned()));
        // A plan strikes once.
        assert_eq!(Client::of(&cut).ask("four, and far more than ten bytes").len(), 35);
    }

    #[test]
    fn a_request_and_an_answer_are_lost_by_their_text() {
        let (server, lines) = echo();
        let cut = Cut::before(server).unwrap();
        let mut client = Client::of(&cut);
        assert_eq!(client.ask("COMMIT 0"), "<COMMIT 0>");

        cut.lose_request("COMMIT");
        assert_eq!(client.ask("insert"), "<insert>");
        // In two pieces.
        client.0.write_all(b"COM").unwrap();
        thread::sleep(std::time::Duration::from_millis(50));
        assert_eq!(client.ask("MIT 1"), "");

        cut.lose_answer("COMMIT");
        let mut client = Client::of(&cut);
        assert_eq!(client.ask("insert"), "<insert>");
        assert_eq!(client.ask("COMMIT 2"), "");
        assert_eq!(cut.cuts(), 2);
        let commits = had(&lines).into_iter().filter(|l| l.starts_with("COMMIT"));
        assert_eq!(commits.collect::<Vec<_>>(), ["COMMIT 0", "COMMIT 2"]);
    }

    #[test]
    fn what_is_held_back_is_passed_on_or_lost() {
        let (server, lines) = echo();
        let cut = Cut::before(server).unwrap();
        let mut client = Client::of(&cut);
        cut.hold_answer("COMMIT");
        assert_eq!(client.ask("insert"), "<insert>");
        writeln!(client.0, "COMMIT").unwrap();
        while !cut.is_holding() {
            thread::yield_now();
        }
        assert_eq!((had(&lines).len(), cut.answered()), (2, 9));
        cut.let_go();
        assert_eq!(client.hear(), "<COMMIT>");

        cut.hold();
        writeln!(client.0, "silence").unwrap();
        while !cut.is_holding() {
            thread::yield_now();
        }
        assert_eq!(had(&lines).len(), 2);
        cut.now();
        assert_eq!(client.hear(), "");
        cut.let_go();
        assert_eq!(Client::of(&cut).ask("after"), "<after>");
        assert_eq!(had(&lines).last().unwrap(), "after");
        assert!(!had(&lines).contains(&"silence".to_owned()));
    }

    #[test]
    fn connections_end_with_their_server_and_are_refused_on_demand() {
        let (server, _) = echo();
        let cut = Cut::before(server).unwrap();
        let mut open = Client::of(&cut);
        assert_eq!(open.ask("a"), "<a>");
        cut.refuse(true);
        assert_eq!(Client::of(&cut).ask("b"), "");
        assert_eq!(open.ask("c"), "<c>");
        cut.refuse(false);
        assert_eq!(Client::of(&cut).ask("d"), "<d>");
        drop(cut);
        assert_eq!(open.ask("e"), "");

        let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let cut = Cut::before(nobody).unwrap();
        assert_eq!(Client::of(&cut).ask("f"), "");
    }
}
