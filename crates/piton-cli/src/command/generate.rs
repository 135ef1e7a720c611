//! What is generated from the command line's definition.

use std::{fmt::Write as _, io};

use clap::CommandFactory;

use crate::{
    args::Arguments,
    exit::{FINISHED, Failure},
    output::show,
};

/// `piton completions SHELL`
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "piton", &mut script);
    show(script)?;
    Ok(FINISHED)
}

/// `piton man`: one page, each command a section of its own.
pub(crate) fn man() -> Result<u8, Failure> {
    let mut command = Arguments::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    let mut page = String::from_utf8_lossy(&page).replace(".SH EXTRA", ".SH EXIT CODES");
    // The list of commands speaks of pages of their own.
    for sub in command.get_subcommands() {
        let name = sub.get_name().replace('-', "\\-");
        page = page.replace(&format!("piton\\-{name}(1)"), &format!("piton {name}"));
    }
    for sub in command.get_subcommands() {
        section(sub, "piton", &mut page)?;
    }
    show(page)?;
    Ok(FINISHED)
}

/// Writes the section of a command, and those of its own commands.
fn section(command: &clap::Command, above: &str, page: &mut String) -> io::Result<()> {
    if command.get_name() == "help" {
        return Ok(());
    }
    let name = format!("{above} {}", command.get_name());
    let man = clap_mangen::Man::new(command.clone().name(name.clone()));
    let mut text = Vec::new();
    man.render_description_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.get_after_help().is_some() {
        man.render_extra_section(&mut text)?;
    }
    let text = String::from_utf8_lossy(&text)
        .replace(".SH DESCRIPTION\n", "")
        .replace(".SH SYNOPSIS\n", ".PP\n")
        .replace(".SH OPTIONS\n", "")
        .replace(".SH EXTRA\n", ".PP\n");
    let _ = write!(page, ".SH {}\n{text}", name.to_uppercase().replace('-', "\\-"));
    command.get_subcommands().try_for_each(|sub| section(sub, &name, page))
}
