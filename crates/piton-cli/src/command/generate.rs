//! What is generated from the command line's definition.

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
    let mut page = Vec::new();
    let command = Arguments::command();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let title = format!("piton {}", sub.get_name());
        let man = clap_mangen::Man::new(sub.clone().name(title));
        man.render_synopsis_section(&mut page)?;
        man.render_description_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    show(page)?;
    Ok(FINISHED)
}
