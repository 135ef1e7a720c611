//! `piton sql postgres-outbox`

use std::fmt::Write as _;

use piton_engine::outbox::{Columns, Findings, Outbox};

use crate::{
    args::OutboxSql,
    exit::{FAILED, FINISHED, Failure},
    output::show,
};

/// Prints an outbox, or compares a live one with what it would print.
pub(crate) fn print_or_check(args: &OutboxSql) -> Result<u8, Failure> {
    let outbox = Outbox { table: args.table.clone(), columns: columns(&args.column)? };
    let Some(url) = &args.check else {
        show(outbox.statements(args.trigger)?)?;
        return Ok(FINISHED);
    };
    let findings = outbox.check(url)?;
    show(described(&findings))?;
    Ok(if findings.misfits.is_empty() { FINISHED } else { FAILED })
}

/// Names of columns given as `COLUMN=NAME`.
fn columns(given: &[String]) -> Result<Columns, Failure> {
    let mut columns = Columns::default();
    for pair in given {
        let (column, name) = pair
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("--column {pair}: write COLUMN=NAME")))?;
        let known = columns.named(column);
        *known.ok_or_else(|| {
            let known = Columns::default().all().join(", ");
            Failure::usage(format!("--column {pair}: there is no '{column}', there are {known}"))
        })? = name.to_owned();
    }
    Ok(columns)
}

fn described(findings: &Findings) -> String {
    let Findings { place, misfits, remarks } = findings;
    let mut text = String::new();
    let _ = match misfits.len() {
        0 => writeln!(text, "{place}: it can be read"),
        _ => writeln!(text, "{place}: it cannot be read as it is"),
    };
    for misfit in misfits {
        let _ = writeln!(text, "  to mend: {misfit}");
    }
    for remark in remarks {
        let _ = writeln!(text, "  note: {remark}");
    }
    text
}
