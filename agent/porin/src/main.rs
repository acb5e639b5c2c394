//! `porin`: the developer's and operator's command. The gateway itself runs only `porind`.

mod cli;
mod cloud;
mod cmd;
mod failure;
mod fleet;
mod keys;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
