//! `portway explain`: what happens to one request, and which line of which file has it so.

mod asked;
mod filters;
mod l4;
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
    /// The method, such as GET; left out for what is no HTTP
    #[arg(value_name = "METHOD")]
    method_or_url: String,
    /// The URL, such as `https://shop.example.com/cart`, `tls://db.example.com`, `tcp://localhost:5432` or
    /// `udp://localhost:53`
    url: Option<String>,
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
    if !args.files.are_there("explain") {
        return Ok(ExitCode::from(crate::USAGE));
    }
    let world = World::read(&args.files.paths);
    for diagnostic in world.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()) {
        print::complaint(format_args!("{}\n", diagnostic.render(Style::of(&io::stderr()).colour())));
    }
    let places = &mut Places::new(&world.resources);
    let story = match &asked {
        Asked::Request(asked) => story::tell(asked, &world, places),
        Asked::Connection(url) => l4::tell(url, &world, places),
    };
    match args.output {
        Output::Json => print::answer(format_args!("{}\n", serde_json::to_string_pretty(&story)?))?,
        Output::Text => print::answer(text::render(&story, Style::of(&io::stdout())))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is asked about.
enum Asked {
    Request(asked::Asked),
    Connection(Uri),
}

fn asked(args: &Args) -> anyhow::Result<Asked> {
    let Some(text) = &args.url else {
        let text = &args.method_or_url;
        let url: Uri = text.parse().with_context(|| format!("{text:?} is no URL"))?;
        if !matches!(url.scheme_str(), Some("tls" | "tcp" | "udp")) || url.host().is_none() {
            bail!("{text:?} is no tls, tcp or udp URL; for HTTP give a method and a URL");
        }
        return Ok(Asked::Connection(url));
    };
    let method = Method::from_bytes(args.method_or_url.as_bytes())
        .with_context(|| format!("{:?} is no method (RFC 9110 section 9.1)", args.method_or_url))?;
    let url: Uri = text.parse().with_context(|| {
        format!("{text:?} is no URL; write it with its scheme, such as http://localhost/")
    })?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none() {
        bail!("{text:?} is no http or https URL; write it with its scheme, such as http://localhost/");
    }
    let header = |text: &String| match text.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => bail!("{text:?} is no header; write 'Name: value'"),
    };
    let headers = args.headers.iter().map(header).collect::<anyhow::Result<_>>()?;
    let server_name = args.server_name.as_ref().map(|name| name.to_ascii_lowercase());
    Ok(Asked::Request(asked::Asked { method, url, headers, server_name }))
}
