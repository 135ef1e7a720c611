//! `piton init DATA` and `piton schema`

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write},
};

use piton_engine::config;

use crate::{
    args::Init,
    exit::{FINISHED, Failure},
    output::{note, print_json},
};

/// Writes a commented configuration for a data file.
pub(crate) fn init(args: &Init) -> Result<u8, Failure> {
    let text = config::init::init(&args.data).map_err(|error| Failure::usage(error.to_string()))?;
    let path = args.output.clone().unwrap_or_else(|| {
        let name = args.data.file_name().unwrap_or_default().to_string_lossy();
        let stem = name.split('.').next().unwrap_or("pipeline").to_owned();
        args.data.with_file_name(format!("{stem}.yaml"))
    });
    let created = OpenOptions::new().write(true).create_new(true).open(&path);
    let mut file = created.map_err(|error| {
        let what = match error.kind() {
            ErrorKind::AlreadyExists => "is there already".to_owned(),
            _ => format!("cannot be written: {error}"),
        };
        Failure::usage(format!("{} {what}: name another file with --output", path.display()))
    })?;
    file.write_all(text.as_bytes())?;
    if args.json {
        print_json(&serde_json::json!({ "file": path }))?;
        return Ok(FINISHED);
    }
    note!("wrote {}: look it over, then `piton run {}`", path.display(), path.display());
    Ok(FINISHED)
}

/// Prints the JSON Schema of the configuration.
pub(crate) fn schema() -> Result<u8, Failure> {
    print_json(&config::schema())?;
    Ok(FINISHED)
}
