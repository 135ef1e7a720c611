//! `backup`, `export`, `import`: the state as a whole.

use std::{
    fs,
    io::{self, Read},
};

use futures_executor::block_on;
use piton_core::{Snapshot, snapshot::FORMAT};

use crate::{
    args::{Backup, Export, Import},
    exit::{FINISHED, Failure, REFUSED},
    opening,
    output::{many, note, print_json, show},
};

/// `piton backup FILE`
pub(crate) fn backup(args: &Backup) -> Result<u8, Failure> {
    let store = opening::existing(&args.store)?;
    if args.file.exists() {
        return Err(Failure::usage(format!(
            "{} is there already: name a new file for the backup",
            args.file.display()
        )));
    }
    piton_stores::backup_to(&*store, &args.file)?;
    if args.json {
        print_json(&serde_json::json!({ "store": store.location(), "backup": args.file }))?;
        return Ok(FINISHED);
    }
    let (location, file) = (store.location(), args.file.display());
    if location.contains("://") {
        note!(
            "backed up {location} to {file}. To restore it: piton export --store sqlite:{file} \
             -o state.json, then piton import state.json --store with a new database"
        );
    } else {
        note!(
            "backed up {location} to {file}. To restore it, remove the store with its -wal and \
             -shm files and put the backup in its place: older owners are then fenced"
        );
    }
    Ok(FINISHED)
}

/// `piton export`
pub(crate) fn export(args: &Export) -> Result<u8, Failure> {
    let store = opening::existing(&args.store)?;
    let snapshot = block_on(store.snapshot())?;
    let mut json =
        serde_json::to_vec_pretty(&snapshot).map_err(|e| Failure::failed(e.to_string()))?;
    json.push(b'\n');
    match &args.output {
        None => show(&json)?,
        Some(path) => {
            fs::write(path, &json).map_err(|e| {
                Failure::failed(format!("{}: cannot be written: {e}", path.display()))
            })?;
            let pipelines = many(snapshot.pipelines.len() as u64, "pipeline");
            note!("exported {pipelines} of {} to {}", store.location(), path.display());
        }
    }
    Ok(FINISHED)
}

/// `piton import FILE`
pub(crate) fn import(args: &Import) -> Result<u8, Failure> {
    let mut text = String::new();
    if args.file.as_os_str() == "-" {
        io::stdin().read_to_string(&mut text)?;
    } else {
        text = fs::read_to_string(&args.file).map_err(|e| {
            Failure::usage(format!("{}: cannot read the export: {e}", args.file.display()))
        })?;
    }
    let snapshot: Snapshot = serde_json::from_str(&text).map_err(|e| {
        Failure::usage(format!("{} is not an export of piton: {e}", args.file.display()))
    })?;
    if snapshot.format > FORMAT {
        return Err(Failure::new(
            REFUSED,
            format!(
                "the export has format {}, this program knows up to {FORMAT}: use a newer piton",
                snapshot.format
            ),
        ));
    }
    let store = opening::created(&args.store)?;
    let pipelines = snapshot.pipelines.len();
    block_on(store.restore(snapshot))?;
    if args.json {
        let done = serde_json::json!({ "store": store.location(), "pipelines": pipelines });
        print_json(&done)?;
        return Ok(FINISHED);
    }
    note!("imported {} into {}", many(pipelines as u64, "pipeline"), store.location());
    Ok(FINISHED)
}
