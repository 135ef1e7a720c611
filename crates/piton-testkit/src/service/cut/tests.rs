//! The proxy against a server that answers lines.

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
                    let _ = stream.write_all(format!("<{line}>\n").as_bytes());
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
        let _ = self.0.write_all(format!("{line}\n").as_bytes());
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

    cut.lose_answer("COMMIT", "");
    let mut client = Client::of(&cut);
    assert_eq!(client.ask("insert"), "<insert>");
    assert_eq!(client.ask("COMMIT 2"), "");
    // An answer to an earlier request, that was not waited for, is another.
    cut.lose_answer("COMMIT", "<COMMIT");
    let mut client = Client::of(&cut);
    assert_eq!(client.ask("close\nCOMMIT 3"), "<close>");
    assert_eq!(client.hear(), "");
    assert_eq!(cut.cuts(), 3);
    let commits = had(&lines).into_iter().filter(|l| l.starts_with("COMMIT"));
    assert_eq!(commits.collect::<Vec<_>>(), ["COMMIT 0", "COMMIT 2", "COMMIT 3"]);
}

#[test]
fn what_is_held_back_is_passed_on_or_lost() {
    let (server, lines) = echo();
    let cut = Cut::before(server).unwrap();
    let mut client = Client::of(&cut);
    cut.hold_answer("COMMIT", "<COMMIT");
    assert_eq!(client.ask("insert"), "<insert>");
    client.0.write_all(b"COMMIT\n").unwrap();
    while !cut.is_holding() {
        thread::yield_now();
    }
    assert_eq!((had(&lines).len(), cut.answered()), (2, 9));
    cut.let_go();
    assert_eq!(client.hear(), "<COMMIT>");

    cut.hold();
    client.0.write_all(b"silence\n").unwrap();
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
