//! `porin completions`: completions of a shell. `porin package-files`: those and the manual, for a package.

use std::{fs, path::Path};

use anyhow::Context;
use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;

use crate::output;

/// Where a package has the completions of a program, by shell.
const PLACES: [(Shell, &str, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/", ""),
    (Shell::Zsh, "zsh/vendor-completions/_", ""),
    (Shell::Fish, "fish/vendor_completions.d/", ".fish"),
];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    shell: Shell,
    /// For `porind` instead of `porin`
    #[arg(long)]
    porind: bool,
}

pub(crate) fn run(arguments: &Arguments, porin: Command) -> anyhow::Result<()> {
    let command = if arguments.porind { porind() } else { porin };
    output::print(&String::from_utf8(completions(arguments.shell, command))?)
}

/// Writes completions of both programs, and the manual of `porin`, into folders as `/usr/share` has them.
pub(crate) fn package_files(folder: &Path, porin: Command) -> anyhow::Result<()> {
    let write = |name: &str, bytes: Vec<u8>| {
        let path = folder.join(name);
        let written = fs::create_dir_all(path.parent().unwrap_or(folder)).and_then(|()| fs::write(&path, bytes));
        written.with_context(|| format!("writing {}", path.display()))
    };
    for (shell, before, after) in PLACES {
        for command in [porin.clone(), porind()] {
            write(&format!("{before}{}{after}", command.get_name()), completions(shell, command))?;
        }
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(porin).manual("porin").render(&mut page)?;
    write("man/man1/porin.1", page)
}

fn completions(shell: Shell, mut command: Command) -> Vec<u8> {
    let (name, mut text) = (command.get_name().to_owned(), Vec::new());
    clap_complete::generate(shell, &mut command, name, &mut text);
    text
}

/// The command line of `porind`, read from its help: it does without clap.
fn porind() -> Command {
    let section = |title: &str| -> Vec<&'static str> {
        let (_, rest) = porind::command::HELP.split_once(title).unwrap_or_default();
        rest.split("\n\n").next().unwrap_or_default().lines().filter(|line| !line.trim().is_empty()).collect()
    };
    // What continues an entry is further to the right.
    let commands = section("Commands:")
        .into_iter()
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.trim().split_once(' '));
    let options = section("Options:").into_iter().filter_map(|line| {
        let (short, rest) = line.split_once("--")?;
        let (long, rest) = rest.split_once(' ')?;
        let value = rest.split(' ').next().filter(|word| !word.is_empty() && word.chars().all(char::is_uppercase));
        let about = value.map_or(rest, |value| &rest[value.len()..]).trim();
        let option = Arg::new(long).long(long).help(about);
        let option = match short.trim().trim_matches(['-', ',']).chars().next() {
            Some(letter) => option.short(letter),
            None => option,
        };
        Some(option.action(if value.is_some() { ArgAction::Set } else { ArgAction::SetTrue }).global(true))
    });
    let commands = commands.map(|(name, about)| Command::new(name).about(about.trim()));
    // The help lists both of its own.
    let command =
        Command::new("porind").disable_help_flag(true).disable_version_flag(true).disable_help_subcommand(true);
    command.args(options).subcommands(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_options_of_porind_are_those_of_its_help() {
        let command = porind();
        let names: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        assert_eq!(names, ["run", "check", "status", "doctor", "boards", "dead", "selftest"]);
        let options: Vec<_> = command
            .get_arguments()
            .map(|option| {
                (option.get_short(), option.get_long().unwrap_or_default(), option.get_action().takes_values())
            })
            .collect();
        assert_eq!(
            options,
            [
                (Some('c'), "config", true),
                (None, "policy", true),
                (None, "board", true),
                (None, "until-drained", false),
                (None, "json", false),
                (Some('h'), "help", false),
                (Some('V'), "version", false),
            ]
        );
    }
}
