//! How a command ends badly: an error, perhaps a hint, and an exit code that scripts can tell apart.

use std::process::ExitCode;

pub(crate) use porind::command::Exit;

/// An error with what to do about it, or with its own exit code. Without one, an error exits with 1.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Says on stderr what failed, outermost first.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    if let Some(hint) = failure.and_then(|failure| failure.hint.as_ref()) {
        eprintln!("hint: {hint}");
    }
    failure.map_or(Exit::Failed, |failure| failure.exit).into()
}
