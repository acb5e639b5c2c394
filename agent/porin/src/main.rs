//! `porin`: the developer's and operator's command. The gateway itself runs only `porind`.

mod cli;
mod cloud;
mod cmd;
mod failure;
mod fleet;
mod keys;
mod output;
mod plot;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}
