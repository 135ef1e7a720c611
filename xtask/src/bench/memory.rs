//! Peak memory, which must not grow with the file.

use super::{Promise, data, judge, pipeline::Pipeline, table};
use crate::command::Failure;

const LIMIT_MIB: f64 = 64.0;

pub(super) fn run() -> Result<Promise, Failure> {
    let mut table = Vec::new();
    let mut highest = 0.0_f64;
    for rows in [45_000, 600_000, 2_400_000] {
        let input = data::flights(rows)?;
        let mut cells = vec![rows.to_string()];
        for (kind, sink, output) in [
            ("sqlite", "sqlite: {path: memory.db, table: flights, key: [id]}", "memory.db"),
            ("jsonl", "jsonl: {path: memory.jsonl}", "memory.jsonl"),
        ] {
            let piton = Pipeline::prepare(&format!("memory-{kind}"), &input, sink, output, "")?;
            let peak = piton.run()?.peak.map(|peak| peak as f64 / f64::from(1 << 20));
            let Some(peak) = peak else {
                println!("this system does not tell a program's peak memory: not measured");
                return Ok(Promise::Kept);
            };
            highest = highest.max(peak);
            cells.push(format!("{peak:.1}"));
        }
        table.push(cells);
    }
    table::print(&["rows", "to SQLite, peak MiB", "to JSONL, peak MiB"], &table);
    let promise = format!("under {LIMIT_MIB} MiB whatever the file's size");
    Ok(judge(&promise, &format!("{highest:.1} MiB"), highest < LIMIT_MIB))
}
