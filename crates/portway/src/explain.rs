//! `portway explain`: what happens to one request, and which line of which file has it so.

mod filters;
mod story;
mod text;

use std::io;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use http::{Method, Uri};

use crate::places::Places;
use crate::print;
use crate::style::Style;
use crate::world::{Files, World};

/// The arguments of `portway explain`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    files: Files,
    /// The method, such as GET
    method: String,
    /// The URL, such as `https://shop.example.com/cart`
    url: String,
    /// A header, `Name: value`; can be given several times
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The TLS server name, if it is not the URL's host
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// How the story is printed
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Prints what happens to the request.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let asked = asked(&args)?;
    let world = World::read(&args.files.paths);
    for diagnostic in world.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()) {
        print::complaint(format_args!("{}\n", diagnostic.render(Style::of(&io::stderr()).colour())));
    }
    let story = story::tell(&asked, &world, &mut Places::new(&world.resources));
    match args.output {
        Output::Json => print::answer(format_args!("{}\n", serde_json::to_string_pretty(&story)?))?,
        Output::Text => print::answer(text::render(&story, Style::of(&io::stdout())))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn asked(args: &Args) -> anyhow::Result<story::Asked> {
    let method = Method::from_bytes(args.method.as_bytes())
        .with_context(|| format!("{:?} is no method (RFC 9110 section 9.1)", args.method))?;
    let url: Uri = args.url.parse().with_context(|| format!("{:?} is no URL", args.url))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
        bail!("{:?} is no http or https URL", args.url);
    }
    let header = |text: &String| match text.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => bail!("{text:?} is no header; write 'Name: value'"),
    };
    let headers = args.headers.iter().map(header).collect::<anyhow::Result<_>>()?;
    let server_name = args.server_name.as_ref().map(|name| name.to_ascii_lowercase());
    Ok(story::Asked { method, url, headers, server_name })
}
