use std::sync::Arc;

use piton_connectors::batch::{Batch, Marks, Origin, Schema, Value};
use piton_core::StoredPosition;
use proptest::prelude::*;

use super::*;

const MANUAL: &str = include_str!("../../../../../docs/expressions.md");

struct NoMarks;

impl Marks for NoMarks {
    fn resume_at(&self, _: Origin) -> StoredPosition {
        StoredPosition { kind: "none".into(), json: "0".into() }
    }

    fn write_id(&self, _: Origin, _: &mut String) {}

    fn place(&self, _: Origin) -> String {
        String::new()
    }
}

fn batch(fields: &[(&str, Value<'_>)]) -> Batch {
    let schema = Arc::new(Schema::named(fields.iter().map(|(name, _)| name)));
    let end = StoredPosition { kind: "none".into(), json: "1".into() };
    let mut batch = Batch::new("p".into(), schema, end, Arc::new(NoMarks));
    batch.begin_row(Origin { mark: 0, line: 1, ordinal: 0 });
    for (_, value) in fields {
        batch.push(*value);
    }
    batch
}

/// The value of an expression on the first row, as JSON, or what is wrong.
fn evaluate(text: &str, batch: &Batch) -> Result<String, String> {
    let expression = Expression::parse(text).map_err(|e| e.to_string())?;
    let columns = expression.bind(&batch.schema);
    let mut out = batch.clone();
    out.schema = Arc::new(Schema::named(["value"]));
    out.begin_row(batch.origin(0));
    let appended = expression.append_to(batch, 0, &columns, &mut out, &mut Vec::new());
    appended.map_err(|reason| reason.to_string())?;
    let mut json = Vec::new();
    piton_connectors::batch::write_json_value(out.get(1, 0), &mut json).unwrap();
    Ok(String::from_utf8(json).unwrap())
}

fn holds(text: &str, fields: &[(&str, Value<'_>)]) -> bool {
    let batch = batch(fields);
    let expression = Expression::parse(text).unwrap();
    expression.holds(&batch, 0, &expression.bind(&batch.schema)).unwrap()
}

/// The fenced blocks of the manual with this after the fence.
fn blocks(tag: &str) -> impl Iterator<Item = &'static str> + '_ {
    MANUAL.split("```").skip(1).step_by(2).filter_map(move |block| {
        let (head, body) = block.split_once('\n')?;
        (head == tag).then_some(body)
    })
}

fn csv_record() -> Batch {
    let block = blocks("csv record").next().unwrap();
    let (head, row) = block.split_once('\n').unwrap();
    let values = row.trim_end().split(',').map(Value::Text);
    batch(&head.split(',').zip(values).collect::<Vec<_>>())
}

fn json_record() -> Batch {
    let block = blocks("json record").next().unwrap();
    let object: Vec<(String, Box<serde_json::value::RawValue>)> =
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(block)
            .unwrap()
            .into_iter()
            .map(|(name, _)| {
                let raw: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
                    serde_json::from_str(block).unwrap();
                let value = raw[&name].clone();
                (name, value)
            })
            .collect();
    let values: Vec<(&str, Value<'_>)> = object
        .iter()
        .map(|(name, raw)| {
            let value = match raw.get() {
                "true" => Value::Bool(true),
                "null" => Value::Null,
                text if text.starts_with('"') => Value::Text(text.trim_matches('"')),
                text if text.starts_with(['[', '{']) => Value::Json(text),
                text => exact_number(text),
            };
            (name.as_str(), value)
        })
        .collect();
    batch(&values)
}

#[test]
fn every_example_of_the_manual_is_true() {
    let mut wrong = Vec::new();
    let mut examples = 0;
    for (tag, record) in [("cel csv", csv_record()), ("cel json", json_record())] {
        for line in blocks(tag).flat_map(str::lines) {
            let (expression, expected) = line.split_once("  // ").unwrap();
            examples += 1;
            let found = evaluate(expression.trim(), &record);
            let found = found.unwrap_or_else(|reason| format!("error: {reason}"));
            if found != expected.trim() {
                wrong.push(format!("{}\n   says {expected}, gives {found}", expression.trim()));
            }
        }
    }
    assert!(examples > 80, "{examples} examples found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_function_is_in_the_manual() {
    for name in functions::Function::names() {
        assert!(MANUAL.contains(&format!("{name}(")), "{name}");
    }
}

#[test]
fn a_comparison_means_the_same_on_text_and_on_numbers() {
    for (number, text) in [(12, "12"), (-3, " -3 "), (0, "0.0")] {
        for expression in ["x > 2", "2 < x", "x >= 0 && x <= 20", "x == 12", "12 == x", "x != 0"] {
            assert_eq!(
                holds(expression, &[("x", Value::Int(number))]),
                holds(expression, &[("x", Value::Text(text))]),
                "{expression} on {number}"
            );
        }
    }
}

#[test]
fn what_cannot_be_compiled_says_where() {
    let shown: Vec<String> = [
        "dep_delay >",
        "dep_delay = 1",
        "a and b",
        "'open",
        "a +\n  sizes(b)",
        "name.startWith('x')",
        "size(a, b)",
        "name.matches('[a')",
        "record",
        "record[name]",
        "items.exists(1, true)",
        "Point{x: 1}",
        "a ? b",
        "18446744073709551615u > a",
        "((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((a",
    ]
    .iter()
    .map(|text| format!("{text:?}: {}", Expression::parse(text).unwrap_err()))
    .collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn long_chains_neither_overflow_the_stack_nor_pass() {
    for (head, rest) in [("1", "+1"), ("a", ".b"), ("a", "[0]"), ("a", "&&a"), ("a", "==a")] {
        let text = format!("{head}{}", rest.repeat((4096 - head.len()) / rest.len()));
        let _ = Expression::parse(&text);
    }
    for opening in ["(", "[", "!", "-", "f(", "a?a:", "{1:"] {
        assert!(Expression::parse(&opening.repeat(4096 / opening.len())).is_err());
    }
    assert!(Expression::parse(&" ".repeat(5000)).is_err());
}

#[test]
fn what_one_record_may_cost_is_bounded() {
    let list = format!("[{}1]", "1,".repeat(9_999));
    let record = batch(&[("l", Value::Json(&list)), ("t", Value::Text(&list))]);
    for text in [
        "l.all(a, l.all(b, l.all(c, a + b + c > 0)))",
        "[t].map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a).map(a, a+a+a+a)",
        "t.replace('1', t)",
    ] {
        assert_eq!(evaluate(text, &record), Err(Reason::TooMuch.to_string()), "{text}");
    }
}

#[test]
fn fields_are_found_by_name_and_has_needs_none() {
    let expression = Expression::parse("b > 1 || has(c) && a.x == 'y' || 'd' in record").unwrap();
    assert_eq!(expression.fields().collect::<Vec<_>>(), ["b", "c", "a", "d"]);
    let schema = Schema::named(["a", "b"]);
    assert_eq!(expression.bind(&schema), [Some(1), None, Some(0), None]);
    assert_eq!(expression.missing_field(&schema), None);
    assert_eq!(expression.missing_field(&Schema::named(["b"])), Some("a"));
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}") {
        let _ = Expression::parse(&text);
    }

    #[test]
    fn no_expression_makes_the_evaluation_panic(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "a", "b", "c", "d", "record", "1", "-9223372036854775808", "0", "2.5", "1e308", "'x'", "\"12\"",
                "null", "true", "[", "]", "(", ")", "{", "}", ",", ":", "?", ".", "+", "-", "*",
                "/", "%", "==", "!=", "<", ">=", "&&", "||", "!", " in ", ".exists(x,", ".map(x,",
                "x", "size(", "int(", "math.abs(", ".substring(", ".matches(", "json(", "has(",
                ".split(", ".join(", ".indexOf(", "math.least(", "[0]", ".replace(",
            ]),
            1..14,
        ),
        text in "\\PC{0,8}",
    ) {
        let record = batch(&[
            ("a", Value::Text(&text)),
            ("b", Value::Int(i64::MIN)),
            ("c", Value::Json("[{\"x\": \"12\"}, [1, 2], null, 1e400]")),
            ("d", Value::Number("123456789012345678901234567890")),
        ]);
        let _ = evaluate(&parts.concat(), &record);
    }
}
