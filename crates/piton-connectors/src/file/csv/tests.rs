//! The cutting of records against the `csv` crate's, on text that is anything but tidy.

use std::io::{self, Read};

use proptest::prelude::*;

use super::*;
use crate::file::{columns::scratch, fingerprint::Fingerprinter, input::Input};

const DIALECT: Dialect = Dialect { delimiter: b',', quote: Some(b'"') };

/// Gives a few bytes at a time, so that every place is once the end of what was read.
struct Trickle {
    text: Vec<u8>,
    given: usize,
    step: usize,
}

impl Read for Trickle {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let now = self.step.min(buffer.len()).min(self.text.len() - self.given);
        buffer[..now].copy_from_slice(&self.text[self.given..][..now]);
        self.given += now;
        Ok(now)
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Cutting {
    /// Where each record began, its line, and its fields.
    records: Vec<(u64, u64, Vec<Vec<u8>>)>,
    /// Where it ended early, because a quote is never closed.
    unclosed: Option<u64>,
}

/// Cuts the text from an offset on, `step` bytes at a time.
fn cut(text: &[u8], from: (u64, u64), step: usize) -> Cutting {
    let mut consumed = Fingerprinter::new();
    consumed.update(&text[..from.0 as usize]);
    let rest = Trickle { text: text[from.0 as usize..].to_vec(), given: 0, step };
    let input = Input::Packed(Box::new(rest));
    let mut window = Window::new(input, "x".into(), consumed, from.1, 1 << 20);
    let mut csv = Csv::of_any_width(DIALECT, 1 << 20);
    let mut records = Vec::new();
    loop {
        let at = origin(&window);
        let mut batch = scratch();
        match csv.cut(&mut window, &mut batch).unwrap() {
            Cut::End => return Cutting { records, unclosed: None },
            Cut::Bad(flaw) => return Cutting { records, unclosed: Some(flaw.origin.mark) },
            Cut::Record => {
                let origin = batch.origin(0);
                assert!(origin.mark >= at.mark);
                let fields = batch.row(0).iter().map(|cell| match cell {
                    Cell::Text(span) => batch.span(*span).to_vec(),
                    other => panic!("{other:?}"),
                });
                records.push((origin.mark, origin.line, fields.collect()));
            }
        }
    }
}

fn by_the_csv_crate(text: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut reader =
        ::csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    let fields = |record: ::csv::ByteRecord| record.iter().map(<[u8]>::to_vec).collect();
    reader.byte_records().map(|record| fields(record.unwrap())).collect()
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        "\"",
        "\"",
        "\"\"",
        ",",
        ",",
        "\n",
        "\r\n",
        "\r",
        "a",
        "b,c\n",
        "\"x\ny\",",
        "\u{feff}",
        "\u{e9}",
        " ",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn records_are_those_of_the_csv_crate(text in text(), step in 1..9_usize) {
        let ours = cut(&text, (0, 1), step);
        let theirs = by_the_csv_crate(&text);
        let records: Vec<_> = ours.records.iter().map(|(_, _, fields)| fields.clone()).collect();
        // Theirs makes a record of all that follows an open quote.
        let unclosed = usize::from(ours.unclosed.is_some());
        prop_assert_eq!(records.len() + unclosed, theirs.len());
        prop_assert_eq!(&records[..], &theirs[..records.len()]);
    }

    #[test]
    fn cutting_can_begin_at_every_record(text in text(), step in 1..9_usize) {
        let all = cut(&text, (0, 1), 1000);
        prop_assert_eq!(&cut(&text, (0, 1), step), &all);
        for (n, (offset, line, _)) in all.records.iter().enumerate() {
            let rest = cut(&text, (*offset, *line), step);
            prop_assert_eq!(&rest.records[..], &all.records[n..]);
            prop_assert_eq!(rest.unclosed, all.unclosed);
        }
    }

    #[test]
    fn a_growing_file_gives_no_record_early(text in text(), at in 0..200_usize) {
        let at = at.min(text.len());
        let input = Input::Packed(Box::new(Trickle { text: text[..at].to_vec(), given: 0, step: 5 }));
        let mut window =
            Window::new(input, "x".into(), Fingerprinter::new(), 1, 1 << 20).growing(true);
        let mut csv = Csv::of_any_width(DIALECT, 1 << 20);
        let mut early = Vec::new();
        loop {
            let mut batch = scratch();
            match csv.cut(&mut window, &mut batch).unwrap() {
                Cut::End => break,
                Cut::Bad(flaw) => panic!("{flaw:?}"),
                Cut::Record => early.push(batch.origin(0).mark),
            }
        }
        let all: Vec<_> = cut(&text, (0, 1), 1000).records.iter().map(|record| record.0).collect();
        prop_assert!(early.len() <= all.len());
        prop_assert_eq!(&early[..], &all[..early.len()]);
        prop_assert!(window.offset() <= at as u64);
    }
}
