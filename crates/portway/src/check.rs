//! `portway check`: what is wrong with files, without serving them.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use portway_api::diagnostic::{Diagnostic, Severity};
use portway_translate::Problems;

use crate::style::Style;
use crate::world::{self, World};
use crate::{USAGE, print};

/// The arguments of `portway check`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Files and folders, which are looked at as one
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Warnings fail the check too: references that lead nowhere, routes that nobody accepts
    #[arg(long)]
    strict: bool,
    /// How findings are printed
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    /// For people: with the source line and a caret
    Text,
    /// One line each, as compilers have it
    Short,
    /// A JSON array
    Json,
}

/// Prints what is found: 0 when it can be used, 1 when not, 2 when a path does not exist.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(missing) = args.paths.iter().find(|path| !path.exists()) {
        print::complaint(format_args!("portway check: {}: no such file or folder", missing.display()));
        return Ok(ExitCode::from(USAGE));
    }
    let world = World::read(&args.paths);
    let mut found = world.diagnostics;
    found.extend(world::problems(&world.translation.problems, &Problems::default(), &world.resources));
    found.extend(world::unserved(world::idle(&world.resources), &world.resources));
    let style = Style::of(&io::stdout());
    match args.output {
        Output::Json => print::answer(format_args!("{}\n", serde_json::to_string_pretty(&found)?))?,
        Output::Short => {
            for diagnostic in &found {
                print::answer(format_args!("{}\n", diagnostic.one_line()))?;
            }
        }
        Output::Text => {
            for diagnostic in &found {
                print::answer(format_args!("{}\n\n", diagnostic.render(style.colour())))?;
            }
        }
    }
    let count = |severity| found.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if !matches!(args.output, Output::Json) {
        let objects =
            portway_api::object::KindId::ALL.iter().map(|kind| world.resources.count(*kind)).sum::<usize>();
        let objects = plural(objects, "object");
        let (errors, warnings) = (plural(errors, "error"), plural(warnings, "warning"));
        print::answer(format_args!("{objects}: {errors}, {warnings}\n"))?;
    }
    let failed = found.iter().any(Diagnostic::is_error) || (args.strict && warnings > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// `1 error`, `2 errors`.
pub(crate) fn plural(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}
