//! `piton dead-letters …`

use std::{collections::BTreeMap, path::Path, sync::Arc};

use futures_executor::block_on;
use piton_core::{DeadLetter, Store};
use piton_engine::{
    RunError, config::Loaded, connect, job::letters::pipeline_of as replay_step, replay,
};

use super::steer::confirm;
use crate::{
    args::{Chosen, DeadLetterCommand, DeadLetters, Drop, Letter, Named},
    exit::{FAILED, FINISHED, Failure},
    opening,
    output::{many, note, print_json, show, table},
};

/// Records that were set aside.
pub(crate) fn dead_letters(args: &DeadLetters) -> Result<u8, Failure> {
    match &args.command {
        DeadLetterCommand::List(named) => list(named),
        DeadLetterCommand::Count(named) => count(named),
        DeadLetterCommand::Show(letter) => show_one(letter),
        DeadLetterCommand::Replay(letters) => replay(letters),
        DeadLetterCommand::Drop(letters) => drop_letters(letters),
    }
}

/// The store, the pipeline's name, and letters of it.
type Found = (Arc<dyn Store>, String, Vec<DeadLetter>);

fn letters(named: &Named) -> Result<Found, Failure> {
    let (store, name) = opening::named(named)?;
    let letters = piton_engine::steer::letters(&*store, &name)?;
    Ok((store, name, letters))
}

fn list(named: &Named) -> Result<u8, Failure> {
    let (_, name, letters) = letters(named)?;
    if named.json {
        print_json(&letters)?;
        return Ok(FINISHED);
    }
    if letters.is_empty() {
        show(format!("'{name}' has no records set aside\n"))?;
        return Ok(FINISHED);
    }
    // Those of a job are of several steps.
    let of_steps = letters.iter().any(|letter| letter.pipeline != name);
    let rows = letters.into_iter().map(|letter| {
        let step = letter.pipeline.get(name.len() + 1..).unwrap_or_default().to_owned();
        let cells = [letter.id, letter.sink, letter.place, letter.reason];
        let cells = cells.into_iter().chain([format!("{:.0}", letter.at)]);
        of_steps.then_some(step).into_iter().chain(cells).collect()
    });
    let head = ["step", "id", "sink", "place", "reason", "at"];
    show(table(&head[usize::from(!of_steps)..], &[], rows.collect()))?;
    Ok(FINISHED)
}

fn count(named: &Named) -> Result<u8, Failure> {
    let (_, name, letters) = letters(named)?;
    if named.json {
        print_json(&serde_json::json!({ "pipeline": name, "count": letters.len() }))?;
    } else {
        show(format!("{}\n", letters.len()))?;
    }
    Ok(FINISHED)
}

fn show_one(args: &Letter) -> Result<u8, Failure> {
    let (_, name, letters) = letters(&args.named)?;
    let found: Vec<DeadLetter> = letters.into_iter().filter(|l| l.id == args.id).collect();
    if found.is_empty() {
        return Err(unknown(&name, &args.id));
    }
    if args.named.json {
        print_json(&found)?;
        return Ok(FINISHED);
    }
    show(found.iter().map(described).collect::<String>())?;
    Ok(FINISHED)
}

fn described(letter: &DeadLetter) -> String {
    format!(
        "id:     {}\nsink:   {}\nplace:  {}\nreason: {}\nat:     {:.0}\nrecord: {}\n",
        letter.id, letter.sink, letter.place, letter.reason, letter.at, letter.record
    )
}

fn unknown(name: &str, id: &str) -> Failure {
    Failure::usage(format!(
        "'{name}' has no dead letter '{id}': see `piton dead-letters list {}`",
        piton::job::in_shell(name)
    ))
}

fn chosen(args: &Chosen) -> Result<Found, Failure> {
    let (store, name, all) = letters(&args.named)?;
    if args.all {
        return Ok((store, name, all));
    }
    if args.ids.is_empty() {
        return Err(Failure::usage("say which: ids as `list` shows them, or --all"));
    }
    if let Some(id) = args.ids.iter().find(|id| !all.iter().any(|letter| letter.id == **id)) {
        return Err(unknown(&name, id));
    }
    let chosen = all.into_iter().filter(|letter| args.ids.contains(&letter.id)).collect();
    Ok((store, name, chosen))
}

/// The letters of each pipeline of a job.
fn by_pipeline(letters: Vec<DeadLetter>) -> BTreeMap<String, Vec<DeadLetter>> {
    let mut of_each: BTreeMap<String, Vec<DeadLetter>> = BTreeMap::new();
    for letter in letters {
        of_each.entry(letter.pipeline.clone()).or_default().push(letter);
    }
    of_each
}

fn drop_letters(args: &Drop) -> Result<u8, Failure> {
    let (store, name, chosen) = chosen(&args.chosen)?;
    if !args.yes && !chosen.is_empty() {
        let records = many(chosen.len() as u64, "record");
        confirm(&format!("drop {records} of '{name}' for good?"))?;
    }
    let mut dropped = 0;
    for (pipeline, letters) in by_pipeline(chosen) {
        let ids = letters.into_iter().map(|letter| (letter.sink, letter.id)).collect();
        dropped += block_on(store.drop_letters(&pipeline, ids))?;
    }
    if args.chosen.named.json {
        print_json(&serde_json::json!({ "pipeline": name, "dropped": dropped }))?;
    } else {
        note!("'{name}': {} dropped", many(dropped, "record"));
    }
    Ok(FINISHED)
}

fn replay(args: &Chosen) -> Result<u8, Failure> {
    let file = Path::new(&args.named.name);
    if !file.is_file() {
        return Err(Failure::usage(format!(
            "to deliver again, piton needs the sinks: name the configuration file of the pipeline or \
             the job instead of '{}'",
            args.named.name
        )));
    }
    let (store, name, chosen) = chosen(args)?;
    let results = match opening::loaded(file)? {
        Loaded::Pipeline(config) => {
            let pipeline = connect::pipeline(&config, false)?;
            replay::replay(&pipeline, &*store, &chosen, opening::owner())?
        }
        Loaded::Job(job) => {
            let instance = job.with(&super::job::params(&args.named.param)?);
            let instance = instance.map_err(|error| Failure::usage(error.to_string()))?;
            let mut results = Vec::new();
            // What cannot be delivered is said before anything is.
            let of_each = by_pipeline(chosen).into_iter();
            let steps = of_each.map(|(pipeline, letters)| {
                Ok((replay_step(&job, &instance, &name, &pipeline)?, letters))
            });
            for (step, letters) in steps.collect::<Result<Vec<_>, RunError>>()? {
                results.extend(replay::replay(&step, &*store, &letters, opening::owner())?);
            }
            results
        }
    };
    let failed = results.iter().filter(|result| result.error.is_some()).count();
    if args.named.json {
        print_json(&results)?;
    } else {
        for result in &results {
            match &result.error {
                None => note!("{}: delivered", result.id),
                Some(error) => note!("{}: still fails: {error}", result.id),
            }
        }
        let delivered = many((results.len() - failed) as u64, "record");
        note!("'{name}': {delivered} delivered, {failed} still set aside");
    }
    Ok(if failed == 0 { FINISHED } else { FAILED })
}
