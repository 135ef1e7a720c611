//! `reset`, `rewind`, `pause`, `resume`, `cancel`.

use std::io::{self, BufRead, IsTerminal, Write};

use piton_core::{Control, Output};
use piton_engine::steer::{self, Proposal, Target, Wish};

use crate::{
    args::{Named, OutputArgs, Reset, Rewind},
    exit::{FINISHED, Failure},
    opening,
    output::print_json,
};

/// `piton reset NAME`
pub(crate) fn reset(args: &Reset) -> Result<u8, Failure> {
    let (store, name) = opening::named(&args.named.name, &args.named.store)?;
    let who = opening::who();
    let wish = wish(args, &name, &who);
    let proposal = steer::propose_reset(&*store, &wish)?;
    carry_out(args, &*store, proposal, &who)
}

/// `piton rewind NAME --to WHERE`
pub(crate) fn rewind(args: &Rewind) -> Result<u8, Failure> {
    let to: Target = args.to.parse().map_err(Failure::usage)?;
    let reset = &args.reset;
    let (store, name) = opening::named(&reset.named.name, &reset.named.store)?;
    let who = opening::who();
    let proposal = steer::propose_rewind(&*store, &wish(reset, &name, &who), &to)?;
    carry_out(reset, &*store, proposal, &who)
}

fn wish<'a>(args: &'a Reset, pipeline: &'a str, who: &'a str) -> Wish<'a> {
    Wish { pipeline, sink: args.sink.as_deref(), output: output(&args.output), who }
}

fn output(args: &OutputArgs) -> Option<Output> {
    match (args.truncate, args.keep) {
        (true, _) => Some(Output::Truncate),
        (_, true) => Some(Output::Keep),
        _ => None,
    }
}

fn carry_out(
    args: &Reset,
    store: &dyn piton_core::Store,
    proposal: Proposal,
    who: &str,
) -> Result<u8, Failure> {
    let word = proposal.kind.as_str();
    let name = proposal.pipeline.clone();
    let consequences = proposal.consequences.clone();
    if proposal.orders.is_empty() {
        eprintln!("'{name}' has no checkpoints: there is nothing to {word}");
        return Ok(FINISHED);
    }
    if !args.named.json {
        for line in &consequences {
            eprintln!("{line}");
        }
    }
    if proposal.undecided.is_empty() && !args.yes {
        confirm(&format!("{word} '{name}'?"))?;
    }
    steer::order(store, proposal, who)?;
    if args.named.json {
        print_json(&serde_json::json!({
            "pipeline": name, "done": word, "consequences": consequences,
        }))?;
    } else {
        eprintln!("done: the next run applies it before it reads");
    }
    Ok(FINISHED)
}

/// Asks on a terminal; without one, nobody can answer.
pub(crate) fn confirm(question: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{question} Nobody can answer here: say --yes. Nothing was changed"
        )));
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Failure::usage("nothing was changed")),
    }
}

/// `piton pause|resume|cancel NAME`
pub(crate) fn control(args: &Named, control: Control) -> Result<u8, Failure> {
    let (store, name) = opening::named(&args.name, &args.store)?;
    steer::control(&*store, &name, control, &opening::who())?;
    let said = match control {
        Control::Run => "goes on",
        Control::Pause => "idles at the next record boundary",
        Control::Cancel => "drains and ends; a new run needs --again",
    };
    if args.json {
        print_json(&serde_json::json!({ "pipeline": name, "control": control }))?;
    } else {
        eprintln!("'{name}' {said}");
    }
    Ok(FINISHED)
}
