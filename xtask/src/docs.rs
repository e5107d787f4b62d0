//! `cargo xtask docs`: the documentation that is made from the code.

use std::process::Command;

use anyhow::bail;

/// Writes `docs/reference/cli.md`. The test that compares it with the command line writes it when it is told to,
/// so that both are one renderer.
///
/// # Errors
/// When cargo fails.
pub(crate) fn run() -> anyhow::Result<()> {
    let arguments = ["test", "--quiet", "--package", "portway", "--bin", "portway", "reference::"];
    let status = Command::new("cargo").args(arguments).env("UPDATE", "1").status()?;
    if status.success() { Ok(()) } else { bail!("cargo {}: {status}", arguments.join(" ")) }
}
