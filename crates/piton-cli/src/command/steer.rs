//! `reset`, `rewind`, `pause`, `resume`, `cancel`.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, IsTerminal, Write},
};

use futures_executor::block_on;
use piton_core::{Control, Output, Store};
use piton_engine::steer::{self, Proposal, Target, Wish};

use crate::{
    args::{Named, OutputArgs, Reset, Rewind},
    exit::{FINISHED, Failure},
    opening,
    output::{many, note, print_json},
};

/// `piton reset NAME`
pub(crate) fn reset(args: &Reset) -> Result<u8, Failure> {
    let (store, name) = opening::named(&args.named)?;
    steer::refuse_step(&*store, &name)?;
    if piton_engine::job::is_job(&steer::find(&*store, &name)?) {
        return super::job::begin_anew(args, None, &store, &name);
    }
    let who = opening::who();
    check_sink(&*store, &name, args)?;
    let wish = wish(args, &name, &who);
    let proposal = steer::propose_reset(&*store, &wish)?;
    carry_out(args, &*store, proposal, &who)
}

/// `piton rewind NAME --to WHERE`
pub(crate) fn rewind(args: &Rewind) -> Result<u8, Failure> {
    let reset = &args.reset;
    let (store, name) = opening::named(&reset.named)?;
    steer::refuse_step(&*store, &name)?;
    if piton_engine::job::is_job(&steer::find(&*store, &name)?) {
        return super::job::begin_anew(reset, Some(&args.to), &store, &name);
    }
    let to: Target = args.to.parse().map_err(Failure::usage)?;
    let who = opening::who();
    check_sink(&*store, &name, reset)?;
    let proposal = steer::propose_rewind(&*store, &wish(reset, &name, &who), &to)?;
    carry_out(reset, &*store, proposal, &who)
}

fn wish<'a>(args: &'a Reset, pipeline: &'a str, who: &'a str) -> Wish<'a> {
    Wish { pipeline, sink: args.sink.as_deref(), output: output(&args.output), who }
}

/// A sink that was misspelt must not read as one that has nothing to go back from.
fn check_sink(store: &dyn Store, name: &str, args: &Reset) -> Result<(), Failure> {
    let Some(wanted) = &args.sink else { return Ok(()) };
    let of_record = steer::sinks_of(&steer::find(store, name)?).into_iter().map(|sink| sink.name);
    // A sink that is no longer in the configuration may still have checkpoints.
    let of_checkpoints = block_on(store.load(name))?.into_iter().map(|c| c.key.sink);
    let known: BTreeSet<String> = of_record.chain(of_checkpoints).collect();
    if known.contains(wanted) {
        return Ok(());
    }
    let known: Vec<String> = known.into_iter().collect();
    Err(Failure::usage(format!("'{name}' has no sink '{wanted}'; it has {}", known.join(", "))))
}

pub(super) fn output(args: &OutputArgs) -> Option<Output> {
    match (args.truncate, args.keep) {
        (true, _) => Some(Output::Truncate),
        (_, true) => Some(Output::Keep),
        _ => None,
    }
}

fn carry_out(
    args: &Reset,
    store: &dyn Store,
    proposal: Proposal,
    who: &str,
) -> Result<u8, Failure> {
    let word = proposal.kind.as_str();
    let name = proposal.pipeline.clone();
    let consequences = proposal.consequences.clone();
    if proposal.orders.is_empty() {
        let waiting = block_on(store.orders(&name))?.len() as u64;
        let why = match waiting {
            0 => "it begins at the beginning anyway".to_owned(),
            _ => format!("{} to reset or rewind for the next run", many(waiting, "order")),
        };
        note!("there is no checkpoint to {word} in '{name}': {why}");
        return Ok(FINISHED);
    }
    if !args.named.json {
        for line in &consequences {
            note!("{line}");
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
        note!("done: the next run applies it before it reads");
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
    write!(io::stderr(), "{question} [y/N] ")?;
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
    let (store, name) = opening::named(args)?;
    steer::control(&*store, &name, control, &opening::who())?;
    let runs = !block_on(store.holders(&name))?.is_empty();
    let is_without_file = piton_engine::job::is_without_file(&steer::find(&*store, &name)?);
    let said = match (control, runs) {
        (Control::Run, true) => "goes on",
        (Control::Run, false) => "may run again; it does not run now",
        (Control::Pause, true) => "idles at the next record boundary",
        (Control::Pause, false) => "does not run now; a new run waits for `piton resume`",
        (Control::Cancel, true) if is_without_file => "ends; `piton resume` has it go on",
        (Control::Cancel, false) if is_without_file => {
            "does not run now; `piton resume` has it go on"
        }
        (Control::Cancel, true) => "drains and ends; a new run needs --again",
        (Control::Cancel, false) => "does not run now; a new run needs --again",
    };
    if args.json {
        print_json(&serde_json::json!({ "pipeline": name, "control": control }))?;
    } else {
        note!("'{name}' {said}");
    }
    Ok(FINISHED)
}
