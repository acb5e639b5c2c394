//! `porin-wasmtime FILE FUNCTION`: the input on stdin, the answer and the log as JSON on stdout. `porin cell call` starts it.

use std::{
    fs,
    io::{Read, Write},
    process::ExitCode,
};

use anyhow::{Context, bail};
use porin_wasmtime::{Outcome, handle_request};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [file, function] = arguments.as_slice() else { bail!("usage: porin-wasmtime FILE handle-request < INPUT") };
    if function != "handle-request" {
        bail!("there is no function `{function}`; known is handle-request");
    }
    let component = fs::read(file).with_context(|| format!("cannot read {file}"))?;
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).context("reading the input")?;
    let Outcome { answer, log } = handle_request(&component, &input)?;
    let answer = serde_json::json!({ "answer": answer, "log": log });
    std::io::stdout().write_all(answer.to_string().as_bytes()).context("writing the answer")
}
