//! `cargo xtask ci`: all that has to pass before a change lands.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;

use crate::cluster::{self, Cluster, run_quietly};
use crate::{conformance, manifests};

/// The cargo-deny that is installed into `target/tools` when it is not there.
const CARGO_DENY: &str = "0.20.2";

/// The arguments of `cargo xtask ci`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these parts (default: all)
    #[arg(value_enum)]
    parts: Vec<Part>,
}

/// A part of the checks.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// rustfmt changes nothing.
    Format,
    /// clippy has nothing to say, in tests too.
    Lint,
    /// Dependencies: bans, licences, sources, advisories.
    Deny,
    /// All tests of the workspace.
    Test,
    /// What HTTP/1.1 takes means the same to llhttp, Node's parser.
    Llhttp,
    /// HTTP/2 behaves as h2spec wants it.
    H2spec,
    /// The fuzz targets compile.
    Fuzz,
    /// The documentation builds without a warning.
    Doc,
    /// `portway check` finds nothing wrong with the examples.
    Examples,
    /// The quickstart answers as the README says.
    Quickstart,
    /// The test bed and the official suite are formatted, vetted and built, and a cluster runs pods.
    Cluster,
    /// The official conformance suite, and our tests like it, pass against the release build.
    Conformance,
    /// The release build works with the CRDs of all versions and channels that are supported.
    Versions,
}

/// Runs the parts and tells how long each took.
///
/// # Errors
/// When a part fails; the others run all the same.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let parts = if args.parts.is_empty() { Part::value_variants() } else { &args.parts };
    let mut results: Vec<(Part, Duration, anyhow::Result<()>)> = Vec::new();
    for &part in parts {
        println!("── {}", name(part));
        let start = Instant::now();
        let result = check(part);
        if let Err(error) = &result {
            eprintln!("{}: {error:#}", name(part));
        }
        results.push((part, start.elapsed(), result));
    }
    println!("──");
    for (part, time, result) in &results {
        let verdict = if result.is_ok() { "ok" } else { "FAILED" };
        println!("{:<10} {:>7.1} s  {verdict}", name(*part), time.as_secs_f64());
    }
    let failed: Vec<String> = results.iter().filter(|r| r.2.is_err()).map(|r| name(r.0)).collect();
    if failed.is_empty() { Ok(()) } else { bail!("failed: {}", failed.join(", ")) }
}

fn name(part: Part) -> String {
    part.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

fn check(part: Part) -> anyhow::Result<()> {
    match part {
        Part::Format => cargo(&["fmt", "--all", "--check"]),
        Part::Lint => cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        Part::Deny => deny(),
        Part::Test => cargo(&["test", "--workspace"]),
        Part::Llhttp => llhttp(),
        Part::H2spec => h2spec(),
        // What the tests have built is not built again.
        Part::Fuzz => cargo(&[
            "build",
            "--quiet",
            "--manifest-path",
            "fuzz/Cargo.toml",
            "--target-dir",
            "target",
            "--bins",
        ]),
        Part::Doc => {
            let mut doc =
                command("cargo", &["doc", "--quiet", "--workspace", "--no-deps", "--document-private-items"]);
            status(doc.env("RUSTDOCFLAGS", "-D warnings"))
        }
        Part::Examples => cargo(&["run", "--quiet", "--package", "portway", "--", "check", "examples"]),
        Part::Quickstart => cargo(&["test", "--package", "portway", "--test", "quickstart"]),
        Part::Cluster => cluster(),
        Part::Conformance => {
            // As users run it; the tests before have built it for debugging.
            cargo(&["build", "--quiet", "--release", "--package", "portway"])?;
            cargo(&["xtask", "conformance"])
        }
        Part::Versions => {
            cargo(&["build", "--quiet", "--release", "--package", "portway"])?;
            cargo(&["xtask", "versions"])
        }
    }
}

/// Debian's packages with what the test bed needs of the system, and a program of each.
const PACKAGES: [(&str, &str); 2] = [("ip", "iproute2"), ("nft", "nftables")];

/// Those with Node.js.
const NODE: [(&str, &str); 2] = [("node", "nodejs"), ("npm", "npm")];

/// Installs what is missing of them.
fn install(packages: &[(&str, &str)]) -> anyhow::Result<()> {
    let missing: Vec<&str> = packages
        .iter()
        .filter(|(program, _)| Command::new(program).arg("-v").output().is_err())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    run_quietly(&mut command("apt-get", &["update"]))?;
    run_quietly(command("apt-get", &["install", "--yes", "--no-install-recommends"]).args(&missing))
}

/// The tests of HTTP/1.1 that need llhttp, which is had from npm.
fn llhttp() -> anyhow::Result<()> {
    install(&NODE)?;
    run_quietly(command("npm", &["ci", "--no-audit", "--no-fund"]).current_dir("tests/llhttp"))?;
    cargo(&["test", "--package", "portway-proxy", "--test", "h1", "--", "--ignored", "llhttp"])
}

/// The tests that run h2spec, which is built from its Go module.
fn h2spec() -> anyhow::Result<()> {
    let tool = std::path::absolute("target/tools/h2spec")?;
    let package = "github.com/summerwind/h2spec/cmd/h2spec";
    let mut build = command("go", &["build", "-buildvcs=false", "-o"]);
    run_quietly(build.arg(&tool).arg(package).current_dir("tests/h2spec"))?;
    let mut test = command("cargo", &["test", "--package", "portway-testkit", "--test", "traffic"]);
    status(test.args(["--", "--ignored", "h2spec"]).env("H2SPEC", tool))
}

fn cluster() -> anyhow::Result<()> {
    install(&PACKAGES)?;
    let unformatted = command("gofmt", &["-l", "tests"]).output().context("gofmt")?.stdout;
    ensure!(unformatted.is_empty(), "not as gofmt has it: {}", String::from_utf8_lossy(&unformatted).trim());
    conformance::prepare()?;
    manifests::run(&manifests::Args { check: true })?;
    // After the builds, whose packages it needs.
    run_quietly(command("go", &["vet", "-buildvcs=false", "./..."]).current_dir("tests/cluster"))?;
    let cluster = Cluster::named("ci")?;
    let works = cluster
        .up(&cluster::Options { no_portway: true, ..Default::default() })
        .and_then(|()| smoke(&cluster));
    cluster.down()?;
    works
}

/// A pod finds what Portway's pods need.
fn smoke(cluster: &Cluster) -> anyhow::Result<()> {
    run_quietly(cluster.kubectl().args(["apply", "--filename", "tests/cluster/smoke.yaml"]))?;
    let phase = "--for=jsonpath={.status.phase}=Succeeded";
    run_quietly(cluster.kubectl().args(["wait", phase, "pod/smoke", "--timeout=30s"])).with_context(|| {
        let logs = cluster.pod_logs().into_iter().filter_map(|file| std::fs::read_to_string(file).ok());
        format!("the pod smoke fails:\n{}", logs.collect::<String>())
    })
}

fn deny() -> anyhow::Result<()> {
    let tool = installed_deny()?;
    let run = |arguments: &[&str]| status(command(&tool, &["--workspace", "--all-features"]).args(arguments));
    run(&["check", "--hide-inclusion-graph", "bans", "licenses", "sources"])?;
    // The database is not ours: where it cannot be had, the rest of the checks still says something.
    match run(&["fetch", "db"]) {
        Ok(()) => run(&["check", "--disable-fetch", "--hide-inclusion-graph", "advisories"]),
        Err(_) => {
            println!("advisories: SKIPPED, the database cannot be fetched from here");
            Ok(())
        }
    }
}

/// The path of cargo-deny, installed once per checkout.
fn installed_deny() -> anyhow::Result<PathBuf> {
    let root = Path::new("target/tools");
    let tool = root.join("bin/cargo-deny");
    let present = Command::new(&tool).arg("--version").output();
    if present.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).trim().ends_with(CARGO_DENY)) {
        return Ok(tool);
    }
    let root = root.to_str().context("the path of the checkout is not UTF-8")?;
    // A debug build: it runs for a second, and an optimised one takes minutes to compile.
    cargo(&[
        "install",
        "--quiet",
        "--locked",
        "--debug",
        "--root",
        root,
        "cargo-deny",
        "--version",
        CARGO_DENY,
    ])?;
    Ok(tool)
}

fn cargo(arguments: &[&str]) -> anyhow::Result<()> {
    status(&mut command("cargo", arguments))
}

fn command(program: impl AsRef<Path>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program.as_ref());
    command.args(arguments);
    command
}

fn status(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {:?}", command.get_program()))?;
    if status.success() {
        return Ok(());
    }
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    bail!("{} {}: {status}", command.get_program().to_string_lossy(), arguments.join(" "))
}
