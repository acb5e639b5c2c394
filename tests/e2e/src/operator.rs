//! An operator: a folder with keys, and porin's own commands.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::program;

/// An operator with all three keys.
#[derive(Debug)]
pub struct Operator {
    folder: TempDir,
    broker: String,
}

impl Operator {
    /// With new keys, at a broker.
    ///
    /// # Panics
    /// If they cannot be made.
    #[must_use]
    pub fn new(port: u16) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let operator = Self { folder, broker: format!("mqtt://127.0.0.1:{port}") };
        operator.json(&["keys", "init", "--fleet", "lab", "--prefix", "acme"]);
        operator
    }

    /// The folder of the keys.
    #[must_use]
    pub fn keys(&self) -> PathBuf {
        self.path("keys")
    }

    /// A file of his.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Exit code, stdout, stderr of `porin` with these arguments.
    ///
    /// # Panics
    /// If it cannot be run.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        let mut command = Command::new(program("porin"));
        command.args(arguments).env("PORIN_BROKER", &self.broker).env_remove("PORIN_PASSPHRASE");
        // What only looks at the broker wants no keys.
        if !["ls", "events"].contains(&arguments[0]) {
            command.arg("--keys").arg(self.keys());
        }
        let Output { status, stdout, stderr } = command.output().expect("it runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (status.code(), text(stdout), text(stderr))
    }

    /// What it says in JSON.
    ///
    /// # Panics
    /// If it fails.
    #[allow(clippy::must_use_candidate)] // that it succeeds may be all that is asked
    pub fn json(&self, arguments: &[&str]) -> Value {
        let (code, stdout, stderr) = self.run(&[arguments, &["--json"]].concat());
        assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// Pushes a component, with a short probation and whatever else is said. Exit code, what it says in JSON, stderr.
    ///
    /// # Panics
    /// If it says no JSON.
    #[must_use]
    pub fn push(&self, cell: &Path, to: &str, more: &[&str]) -> (Option<i32>, Value, String) {
        let cell = cell.display().to_string();
        let quick = ["--shadow", "200ms", "--canary", "200ms", "--packets", "20", "--wait", "100s", "--json"];
        let (code, stdout, stderr) = self.run(&[&["push", &cell, "--to", to][..], &quick, more].concat());
        (code, serde_json::from_str(&stdout).unwrap_or_default(), stderr)
    }
}
