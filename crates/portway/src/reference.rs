//! `docs/reference/cli.md`, made of the command line's own help. `cargo xtask docs` writes it.

use std::fmt::Write as _;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _};

use crate::Cli;

/// The reference as it should be.
fn render() -> String {
    let mut cli = Cli::command();
    cli.build();
    let mut out = "<!-- Written by `cargo xtask docs`. -->\n# Command line\n\n".to_owned();
    let _ = writeln!(out, "Exit codes: 0, 1 when something went wrong or was found, 2 for wrong arguments.");
    for command in cli.get_subcommands().filter(|command| command.get_name() != "help") {
        let mut usage = command.clone();
        let usage = usage.render_usage().to_string();
        let _ = writeln!(out, "\n## portway {}\n", command.get_name());
        let _ = writeln!(out, "{}\n\n```\n{}\n```\n", about(command), usage.trim_start_matches("Usage: "));
        out += "| argument | |\n|-|-|\n";
        let told = |arg: &&Arg| !arg.is_hide_set() && !arg.is_global_set() && arg.get_id() != "help";
        let (positional, options): (Vec<&Arg>, Vec<&Arg>) =
            command.get_arguments().filter(told).partition(|arg| arg.is_positional());
        for arg in positional.into_iter().chain(options) {
            let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
            let _ = writeln!(out, "| {short}`{arg}` | {} |", meaning(arg));
        }
    }
    out += "\n## Every command\n\n| argument | |\n|-|-|\n";
    for arg in cli.get_arguments().filter(|arg| arg.is_global_set()) {
        let _ = writeln!(out, "| `{arg}` | {} |", meaning(arg));
    }
    out += "| `-h`, `--help` | Help: short, or all of it |\n";
    out
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// The help of an argument, its values, its default and its variable.
fn meaning(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| arg.get_action().takes_values())
        .map(|value| {
            let help = value.get_help().map(|help| format!(" ({help})")).unwrap_or_default();
            format!("`{}`{help}", value.get_name())
        })
        .collect();
    if !values.is_empty() {
        let _ = write!(text, ": {}", values.join(", "));
    }
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if !defaults.is_empty() && arg.get_action().takes_values() {
        let _ = write!(text, ". Default: `{}`", defaults.join(" "));
    }
    if let Some(variable) = arg.get_env() {
        let _ = write!(text, ". Variable: `{}`", variable.to_string_lossy());
    }
    text
}

#[test]
fn the_reference_is_current() -> std::io::Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/cli.md");
    let rendered = render();
    if std::env::var_os("UPDATE").is_some() {
        return std::fs::write(path, rendered);
    }
    let written = std::fs::read_to_string(path)?;
    assert_eq!(written, rendered, "docs/reference/cli.md is not current: run `cargo xtask docs`");
    Ok(())
}
