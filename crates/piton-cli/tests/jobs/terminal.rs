//! The tree of a job that runs, as a person sees it on a terminal, which `script` makes.

use piton_testkit::Program;

use crate::place::{Place, RUN};

/// The columns of a terminal that does not say how many it has.
const WIDTH: usize = 80;

/// What stands on a terminal after a program has written this: what the drawing needs of one.
#[derive(Default)]
struct Screen {
    lines: Vec<Vec<char>>,
    row: usize,
    column: usize,
}

impl Screen {
    fn after(written: &str) -> Vec<String> {
        let mut screen = Self::default();
        let mut rest = written.chars();
        while let Some(next) = rest.next() {
            match next {
                '\x1b' => {
                    let sequence: String = rest.by_ref().take_while(|c| *c != '[').collect();
                    assert!(sequence.is_empty(), "an unknown sequence: {sequence}");
                    let mut count = String::new();
                    let last = rest.find(|c| {
                        count.extend(c.is_ascii_digit().then_some(*c));
                        c.is_ascii_alphabetic()
                    });
                    screen.command(last.unwrap(), count.parse().unwrap_or(1));
                }
                '\r' => screen.column = 0,
                '\n' => screen.row += 1,
                shown => screen.put(shown),
            }
        }
        let text = |line: Vec<char>| line.into_iter().collect::<String>().trim_end().to_owned();
        screen.lines.into_iter().map(text).collect()
    }

    fn command(&mut self, command: char, count: usize) {
        match command {
            'A' => self.row = self.row.saturating_sub(count),
            'B' => self.row += count,
            'K' => self.line().clear(),
            // Colours, and the cursor's being seen.
            'm' | 'h' | 'l' => {}
            other => panic!("an unknown command: {other}"),
        }
    }

    fn line(&mut self) -> &mut Vec<char> {
        if self.lines.len() <= self.row {
            self.lines.resize(self.row + 1, Vec::new());
        }
        &mut self.lines[self.row]
    }

    /// Behind the last column the next one goes on in the line below.
    fn put(&mut self, shown: char) {
        if self.column == WIDTH {
            (self.row, self.column) = (self.row + 1, 0);
        }
        let column = self.column;
        let line = self.line();
        if line.len() <= column {
            line.resize(column + 1, ' ');
        }
        line[column] = shown;
        self.column += 1;
    }
}

/// Drawn over and over, each step stands there once at the end, and what its command printed above;
/// elsewhere there are plain lines.
#[test]
fn the_tree_is_drawn_on_a_terminal_and_nowhere_else() {
    let place = Place::with(
        "job: j\nsteps:
  - step: copy
    source: {csv: {path: in.csv}}
    sinks: {out: {jsonl: {path: out.jsonl}}}
  - step: group
    steps: [{step: tell, run: [sh, -c, 'echo told; [ -e ok ]']}]
",
    );
    std::fs::write(place.path("in.csv"), "id\n1\n2\n").unwrap();
    let terminal = Program::new("script", place.path(".")).with("TERM", "xterm");
    let run = format!("{} run job.yaml", env!("CARGO_BIN_EXE_piton"));
    let seen = |code: i32| {
        let ended = terminal.run_to(code, &["-qec", &run, "/dev/null"]);
        let written = ended.unwrap_or_else(|error| panic!("{error}")).stdout;
        assert!(written.contains("\x1b["), "drawn once more: {written}");
        Screen::after(&written)
    };
    let drawn = |screen: &[String], wanted: &[&str]| {
        let first = screen.iter().position(|line| line.starts_with(wanted[0]));
        let lines = &screen[first.unwrap_or_else(|| panic!("no {wanted:?} in {screen:#?}"))..];
        for (line, wanted) in lines.iter().zip(wanted) {
            assert!(line.starts_with(wanted), "no '{wanted}' in {screen:#?}");
        }
        assert_eq!(screen.iter().filter(|line| line.starts_with(wanted[0])).count(), 1);
    };
    let failed = seen(1);
    let tree = ["copy    done     2 records", "group   failed", "  tell  failed", "1 of 3 steps"];
    drawn(&failed, &tree);
    assert!(failed.contains(&"group/tell: told".to_owned()), "{failed:#?}");
    std::fs::write(place.path("ok"), "").unwrap();
    let done = ["copy    done     before", "group   done", "  tell  done", "3 of 3 steps done"];
    drawn(&seen(0), &[&done[..], &["1 step done before: skipped", "finished: 2 steps"]].concat());
    place.ends_with(0, &["rewind", "j", "--to", "group", "--yes"]);
    let plain = place.ends_with(0, RUN);
    assert!(plain.stderr.contains("step 'group/tell': done"), "{plain}");
    assert!(!(plain.stderr + &plain.stdout).contains('\x1b'));
}
