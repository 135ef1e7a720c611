use piton_connectors::batch::{Marks, Origin, Value};
use piton_core::StoredPosition;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

const LARGE: usize = 1 << 20;

struct Numbers;

impl Marks for Numbers {
    fn resume_at(&self, origin: Origin) -> StoredPosition {
        StoredPosition { kind: "number".into(), json: origin.mark.to_string() }
    }

    fn write_id(&self, origin: Origin, out: &mut String) {
        out.push_str(&origin.mark.to_string());
    }

    fn place(&self, origin: Origin) -> String {
        format!("line {}", origin.line)
    }
}

fn empty(schema: Schema, end: usize) -> Batch {
    let end = StoredPosition { kind: "number".into(), json: end.to_string() };
    let mut batch = Batch::new("p".into(), Arc::new(schema), end, Arc::new(Numbers));
    batch.records = 0;
    batch
}

/// Records whose fields may differ, as a JSON source gives them; numbered from `first`.
fn json_batch(records: &[&str], first: usize) -> Batch {
    type Record<'a> = Vec<(String, &'a RawValue)>;
    let parse = |text: &&'static str| -> Record<'static> {
        let value: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
        let raw: std::collections::HashMap<String, &'static RawValue> =
            serde_json::from_str(text).unwrap();
        value.into_iter().map(|(name, _)| (name.clone(), raw[&name])).collect()
    };
    let leaked: Vec<&'static str> =
        records.iter().map(|text| &*Box::leak((*text).to_owned().into_boxed_str())).collect();
    let records: Vec<Record<'_>> = leaked.iter().map(parse).collect();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in records.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let mut batch = empty(Schema::named(&names), first + records.len());
    for (index, record) in records.iter().enumerate() {
        batch.records += 1;
        let mark = (first + index) as u64;
        batch.begin_row(Origin { mark, line: mark + 1, ordinal: 0 });
        for name in &names {
            let raw = record.iter().find(|(other, _)| other == name).map(|(_, raw)| raw.get());
            batch.push(match raw {
                None => Value::Absent,
                Some("null") => Value::Null,
                Some("true") => Value::Bool(true),
                Some(text) if text.starts_with('"') => Value::Text(text.trim_matches('"')),
                Some(text) if text.starts_with(['[', '{']) => Value::Json(text),
                Some(text) => expression::exact_number(text),
            });
        }
    }
    batch
}

/// Rows of text under known names, as CSV gives them.
fn csv_batch(head: &str, rows: &[&str]) -> Batch {
    let mut batch = empty(Schema::named(head.split(',')), rows.len());
    for (index, row) in rows.iter().enumerate() {
        batch.records += 1;
        batch.begin_row(Origin { mark: index as u64, line: index as u64 + 2, ordinal: 0 });
        row.split(',').for_each(|value| batch.push(Value::Text(value)));
    }
    batch
}

fn filter(text: &str) -> Transform {
    Transform::Filter(Expression::parse(text).unwrap())
}

fn select(columns: &[(&str, &str)]) -> Transform {
    let column = |(name, text): &(&str, &str)| Selected {
        name: (*name).to_owned(),
        value: Taken::Expression(Expression::parse(text).unwrap()),
    };
    Transform::Select(columns.iter().map(column).collect())
}

fn keep(names: &[&str]) -> Transform {
    let column = |name: &&str| Selected {
        name: (*name).to_owned(),
        value: Taken::Field((*name).to_owned()),
    };
    Transform::Select(names.iter().map(column).collect())
}

fn rename(names: &[(&str, &str)]) -> Transform {
    Transform::Rename(names.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect())
}

fn flatten(field: &str) -> Transform {
    Transform::Flatten { field: field.to_owned(), separator: "_".to_owned() }
}

/// All rows as `id json`, and all bad records.
fn run(steps: &[Transform], fixed: bool, batch: Batch) -> (Vec<String>, Vec<BadRow>) {
    let mut transforms = Transforms::new(steps, fixed, LARGE);
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    for applied in transforms.apply(batch) {
        let applied = applied.unwrap();
        let before = rows.len();
        rows.extend((0..applied.batch.rows()).map(|row| shown(&applied.batch, row)));
        bad.extend(applied.bad.into_iter().map(|b| BadRow { before: b.before + before, ..b }));
    }
    (rows, bad)
}

fn shown(batch: &Batch, row: usize) -> String {
    let mut json = Vec::new();
    batch.write_json(row, &mut json).unwrap();
    format!("{} {}", batch.id(row), String::from_utf8(json).unwrap())
}

fn error(steps: &[Transform], fixed: bool, batch: Batch) -> String {
    let mut transforms = Transforms::new(steps, fixed, LARGE);
    transforms.apply(batch).find_map(Result::err).unwrap().to_string()
}

#[test]
fn filtered_rows_keep_their_ids_and_the_batch_covers_what_was_dropped() {
    let batch = csv_batch("id,delay", &["1,5", "2,-3", "3,NA", "4,12"]);
    let mut transforms = Transforms::new(&[filter("delay > 0")], true, LARGE);
    let applied = transforms.apply(batch).next().unwrap().unwrap();
    assert_eq!(shown(&applied.batch, 1), r#"p@3 {"id":"4","delay":"12"}"#);
    assert_eq!((applied.batch.rows(), applied.batch.records), (2, 4));
    assert_eq!(applied.batch.end.json, "4");
    assert!(applied.bad.is_empty());
}

#[test]
fn a_bad_record_is_named_with_the_record_that_the_source_gave() {
    let steps = [
        rename(&[("delay", "late")]),
        filter("late != '0'"),
        select(&[("id", "id"), ("hours", "late / 60")]),
        filter("hours > 1"),
    ];
    let batch = csv_batch("id,delay", &["1,0", "2,120", "3,NA", "4,30", "5,600", "6,x"]);
    let (rows, bad) = run(&steps, true, batch);
    assert_eq!(rows, [r#"p@1 {"id":"2","hours":2}"#, r#"p@4 {"id":"5","hours":10}"#]);
    assert_eq!(bad.iter().map(|b| b.before).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(
        bad[0],
        BadRow {
            before: 1,
            records_before: 2,
            origin: Origin { mark: 2, line: 4, ordinal: 0 },
            id: "p@2".into(),
            place: "line 4".into(),
            field: Some("late".into()),
            reason: "transform 3 (select): late: 'NA' is not a number".into(),
            record: r#"{"id":"3","delay":"NA"}"#.into(),
        }
    );
}

#[test]
fn a_filter_that_is_neither_true_nor_false_is_an_error_of_the_record() {
    let (rows, bad) = run(&[filter("id")], true, csv_batch("id", &["1"]));
    assert!(rows.is_empty());
    assert_eq!(bad[0].reason, "transform 1 (filter): \"1\" is text, where true or false is needed");
}

#[test]
fn select_orders_copies_and_computes() {
    let batch = json_batch(&[r#"{"a":1,"b":{"c":[2]}}"#, r#"{"a":3,"d":1.50}"#], 0);
    let steps = [select(&[("d", "d"), ("a", "a"), ("c", "b.c"), ("both", "[a, d]")])];
    let (rows, bad) = run(&steps, false, batch.clone());
    assert_eq!(
        rows,
        [
            r#"p@0 {"a":1,"c":[2],"both":[1,null]}"#,
            r#"p@1 {"d":1.5,"a":3,"c":null,"both":[3,1.5]}"#
        ]
    );
    assert!(bad.is_empty());
    assert_eq!(run(&[keep(&["d", "x"])], false, batch).0[1], r#"p@1 {"d":1.5}"#);
}

#[test]
fn names_can_be_swapped_and_never_meet_unnoticed() {
    let swap = [rename(&[("a", "b"), ("b", "a")])];
    assert_eq!(run(&swap, true, csv_batch("a,b", &["1,2"])).0, [r#"p@0 {"b":"1","a":"2"}"#]);
    let meet = [rename(&[("a", "b")])];
    let message = "transform 1 (rename) would give two fields the name 'b': \
                   rename or leave out one of them first";
    assert_eq!(error(&meet, true, csv_batch("a,b", &["1,2"])), message);
    // Records that have different fields may have either.
    let records = [r#"{"a":1}"#, r#"{"b":2,"c":3}"#, r#"{"a":1,"b":2}"#, r#"{"c":4}"#];
    let (rows, bad) = run(&meet, false, json_batch(&records, 0));
    assert_eq!(rows, [r#"p@0 {"b":1}"#, r#"p@1 {"b":2,"c":3}"#, r#"p@3 {"c":4}"#]);
    assert_eq!(bad[0].reason, "transform 1 (rename): the record has two values for 'b'");
    assert_eq!((&*bad[0].record, bad[0].before), (r#"{"a":1,"b":2}"#, 2));
}

#[test]
fn flatten_spreads_objects_over_columns_and_lists_over_records() {
    let records = [
        r#"{"id":1,"x":{"a":"q\"\u00e9","b":[1],"c":null,"d":12345678901234567890}}"#,
        r#"{"id":2,"x":[{"a":1},{"b":2.5},7,[8]]}"#,
        r#"{"id":3,"x":[]}"#,
        r#"{"id":4,"x":"[text"}"#,
        r#"{"id":5}"#,
        r#"{"id":6,"x":null}"#,
    ];
    let (rows, bad) = run(&[flatten("x")], false, json_batch(&records, 0));
    insta::assert_snapshot!(rows.join("\n"));
    assert!(bad.is_empty());
    // Text that is JSON counts as JSON, and an object alone leaves no column for itself.
    let batch = csv_batch("x|id".replace('|', ",").as_str(), &["{\"a\":1},9"]);
    assert_eq!(run(&[flatten("x")], true, batch).0, [r#"p@0 {"id":"9","x_a":1}"#]);
}

#[test]
fn flatten_never_puts_one_value_over_another() {
    let records = [r#"{"x":{"a":1}}"#, r#"{"x":{"a":1},"x_a":2}"#, r#"{"x_a":3}"#];
    let (rows, bad) = run(&[flatten("x")], false, json_batch(&records, 0));
    assert_eq!(rows, [r#"p@0 {"x_a":1}"#, r#"p@2 {"x_a":3}"#]);
    assert_eq!(bad[0].reason, "transform 1 (flatten): the record has two values for 'x_a'");
}

#[test]
fn a_record_that_would_become_too_much_is_bad() {
    let many = format!(r#"{{"x":[{}0]}}"#, "0,".repeat(100_000));
    let wide: Vec<String> = (0..1001).map(|n| format!("\"{n}\":0")).collect();
    let wide = format!(r#"{{"x":{{{}}}}}"#, wide.join(","));
    let (rows, bad) = run(&[flatten("x")], false, json_batch(&[&many, &wide, r#"{"x":[1]}"#], 0));
    assert_eq!(rows, [r#"p@2 {"x":1}"#]);
    let reasons: Vec<&str> = bad.iter().map(|bad| bad.reason.as_str()).collect();
    insta::assert_snapshot!(reasons.join("\n"));
}

/// Invariant 8: memory is bounded whatever a record becomes. Invariant 1 needs that a part's end
/// covers no record of a later part.
#[test]
fn what_flatten_makes_is_handed_out_in_parts_between_records() {
    let items: Vec<String> = (0..50).map(|n| n.to_string()).collect();
    let record = format!(r#"{{"y":[1,2],"x":[{}]}}"#, items.join(","));
    let records: Vec<&str> = vec![&record; 40];
    let steps = [flatten("x"), flatten("y"), filter("x % 2 == 0")];
    let mut transforms = Transforms::new(&steps, false, 20_000);
    let (mut rows, mut covered, mut counted, mut parts) = (0, 0, 0, 0);
    for applied in transforms.apply(json_batch(&records, 0)) {
        let batch = applied.unwrap().batch;
        parts += 1;
        rows += batch.rows();
        counted += batch.records;
        assert!(batch.size() < 3 * 20_000, "{}", batch.size());
        let end: u64 = batch.end.json.parse().unwrap();
        for row in 0..batch.rows() {
            let mark = batch.origin(row).mark;
            assert!((covered..end).contains(&mark), "{mark} in a part that ends at {end}");
        }
        covered = end;
    }
    assert!(parts > 5, "{parts} parts");
    assert_eq!((rows, covered, counted), (40 * 50, 40, 40));
}

#[test]
fn an_unknown_field_is_named_with_the_nearest() {
    let batch = || csv_batch("id,dep_delay", &["1,2"]);
    let shown = [
        error(&[filter("dep_dely > 0")], true, batch()),
        error(&[keep(&["id", "delay"])], true, batch()),
        error(&[rename(&[("Id", "x")]), keep(&["x"])], true, batch()),
        error(&[keep(&["id"]), flatten("dep_delay")], false, batch()),
    ];
    insta::assert_snapshot!(shown.join("\n"));
    // Where records may have any fields it is only absent, and `has` may always ask.
    assert!(run(&[filter("dep_dely > 0")], false, batch()).0.is_empty());
    assert_eq!(run(&[filter("!has(dep_dely)")], true, batch()).0.len(), 1);
}

#[test]
fn a_schema_that_changes_between_batches_is_followed() {
    let mut transforms = Transforms::new(&[filter("b > 1"), keep(&["b"])], false, LARGE);
    let mut rows = Vec::new();
    for record in [r#"{"a":1,"b":2}"#, r#"{"b":3}"#, r#"{"a":9}"#, r#"{"b":4,"a":1}"#] {
        for applied in transforms.apply(json_batch(&[record], 0)) {
            let batch = applied.unwrap().batch;
            rows.extend((0..batch.rows()).map(|row| shown(&batch, row)));
        }
    }
    assert_eq!(rows, [r#"p@0 {"b":2}"#, r#"p@0 {"b":3}"#, r#"p@0 {"b":4}"#]);
}

fn any_record() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "1",
        "-2",
        "\"3\"",
        "\"NA\"",
        "null",
        "true",
        "[]",
        "{}",
        "{\"k\":4}",
        "{\"k\":\"x\"}",
    ]);
    let list = prop::collection::vec(leaf.clone(), 0..4).prop_map(|l| format!("[{}]", l.join(",")));
    let value = prop_oneof![3 => leaf.prop_map(str::to_owned), 2 => list];
    prop::collection::btree_map(prop::sample::select(vec!["a", "b", "a_k"]), value, 0..4).prop_map(
        |fields| {
            let fields: Vec<_> = fields.iter().map(|(k, v)| format!("\"{k}\":{v}")).collect();
            format!("{{{}}}", fields.join(","))
        },
    )
}

fn any_step() -> impl Strategy<Value = Transform> {
    prop_oneof![
        prop::sample::select(vec!["a + 1 > 0", "!has(a)", "a != 2 || b", "size(b) < 3"])
            .prop_map(filter),
        Just(flatten("a")),
        Just(flatten("b")),
        Just(rename(&[("a", "b"), ("b", "a")])),
        Just(rename(&[("a_k", "a")])),
        Just(select(&[("a", "b"), ("b", "a * 2"), ("a_k", "a_k")])),
        Just(select(&[("a", "a"), ("b", "[a, b]"), ("a_k", "a_k")])),
    ]
}

proptest! {
    /// Invariant 6: a replay with other batch borders gives the same rows under the same ids, and
    /// the same bad records at the same places.
    #[test]
    fn what_becomes_of_a_record_does_not_depend_on_the_others(
        records in prop::collection::vec(any_record(), 0..8),
        steps in prop::collection::vec(any_step(), 0..5),
        border in 0_usize..8,
        limit in prop::sample::select(vec![1, 1000, LARGE]),
    ) {
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        let border = border.min(records.len());
        let sorted = |(rows, bad): (Vec<String>, Vec<BadRow>)| {
            let unordered = |row: &String| {
                let (id, json) = row.split_once(' ').unwrap();
                let object: serde_json::Value = serde_json::from_str(json).unwrap();
                (id.to_owned(), object)
            };
            let sorted_record = |b: BadRow| {
                let object: std::collections::BTreeMap<String, serde_json::Value> =
                    serde_json::from_str(&b.record).unwrap();
                BadRow { record: format!("{object:?}").into(), ..b }
            };
            let bad: Vec<BadRow> = bad.into_iter().map(sorted_record).collect();
            (rows.iter().map(unordered).collect::<Vec<_>>(), bad)
        };
        // Steps that do not fit one another are refused before any record.
        let Some(whole) = run_with(&steps, json_batch(&records, 0), limit) else { return Ok(()) };
        let whole = sorted(whole);
        let mut parts = (Vec::new(), Vec::new());
        for (range, first) in [(0..border, 0), (border..records.len(), border)] {
            let (rows, bad) = sorted(
                run_with(&steps, json_batch(&records[range], first), LARGE).unwrap()
            );
            let before = parts.0.len();
            parts.0.extend(rows);
            parts.1.extend(bad.into_iter().map(|b| BadRow {
                before: b.before + before,
                records_before: b.records_before + first as u64,
                ..b
            }));
        }
        prop_assert_eq!(&whole, &parts);
        let mut ids: Vec<&String> = whole.0.iter().map(|(id, _)| id).collect();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), whole.0.len(), "ids are not distinct: {:?}", whole.0);
    }
}

fn run_with(steps: &[Transform], batch: Batch, limit: usize) -> Option<(Vec<String>, Vec<BadRow>)> {
    let records = batch.records;
    let mut transforms = Transforms::new(steps, false, limit);
    let (mut rows, mut bad, mut counted) = (Vec::new(), Vec::new(), 0);
    for applied in transforms.apply(batch) {
        let applied = applied.ok()?;
        counted += applied.batch.records;
        let before = rows.len();
        rows.extend((0..applied.batch.rows()).map(|row| shown(&applied.batch, row)));
        bad.extend(applied.bad.into_iter().map(|b| BadRow { before: b.before + before, ..b }));
    }
    assert_eq!(counted, records);
    Some((rows, bad))
}
