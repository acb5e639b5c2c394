//! `porin cell call`: one call into a component of the world `processing-unit`, on the gateway's interpreter or the cloud's
//! compiler. The answer goes to stdout, what is logged to stderr.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::Context;
use clap::ValueEnum;
use porin_cell::{ProcessingUnit, UnitError};
use porin_core::limits::CellLimits;
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The component
    file: PathBuf,
    /// The function
    #[arg(value_parser = ["handle-request"])]
    function: String,
    /// The input
    input: String,
    /// Engine: the gateway's interpreter, or the cloud's compiler
    #[arg(long, value_enum, default_value_t = Engine::Wasmi)]
    engine: Engine,
    /// Print answer and log as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Engine {
    Wasmi,
    Wasmtime,
}

#[derive(Deserialize, Serialize)]
struct Outcome {
    answer: String,
    log: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let outcome = match arguments.engine {
        Engine::Wasmi => here(arguments)?,
        Engine::Wasmtime => there(arguments)?,
    };
    let mut stdout = crate::output::stdout();
    if arguments.json {
        writeln!(stdout, "{}", serde_json::to_string(&outcome)?)?;
    } else {
        outcome.log.iter().for_each(|line| eprintln!("{line}"));
        writeln!(stdout, "{}", outcome.answer)?;
    }
    Ok(())
}

fn here(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let path = arguments.file.display();
    let component = fs::read(&arguments.file).with_context(|| format!("cannot read {path}"))?;
    let mut unit = ProcessingUnit::start(&component, &["log".into()], CellLimits::default()).map_err(|error| {
        let hint = matches!(error, UnitError::Load(_))
            .then(|| "`cell call` runs components of the world `processing-unit`, such as cells/cloud-demo; cells for slots run in `porin up`".into());
        Failure { exit: Exit::Refused, message: format!("{path}: {error}"), hint }
    })?;
    let answer = unit.handle_request(&arguments.input).with_context(|| format!("{path}: handle-request"))?;
    let (log, dropped) = unit.take_log();
    if dropped > 0 {
        eprintln!("{dropped} further lines were logged");
    }
    Ok(Outcome { answer, log: log.into_iter().map(|line| line.message).collect() })
}

/// Wasmtime is a program of its own: 18 MB that nobody needs who writes cells.
fn there(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let program = std::env::current_exe()?.with_file_name("porin-wasmtime");
    if !program.exists() {
        return Err(Failure {
            exit: Exit::Failed,
            message: format!("{} is not there", program.display()),
            hint: Some("cargo build -p porin-wasmtime".into()),
        }
        .into());
    }
    let mut child = Command::new(program)
        .arg(&arguments.file)
        .arg(&arguments.function)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting porin-wasmtime")?;
    child.stdin.take().context("its stdin")?.write_all(arguments.input.as_bytes()).context("giving it the input")?;
    let output = child.wait_with_output().context("waiting for porin-wasmtime")?;
    if !output.status.success() {
        return Err(Failure { exit: Exit::Failed, message: "Wasmtime could not run it".into(), hint: None }.into());
    }
    serde_json::from_slice(&output.stdout).context("the answer of porin-wasmtime")
}
