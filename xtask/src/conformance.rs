//! `cargo xtask conformance`: the official suite of the Gateway API against Portway in the test bed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use serde_json::Value;

use crate::cluster::{self, Channel, Cluster, root, run_quietly};

/// The Go test that is the official suite; each of the suite's tests is a subtest of it.
const OFFICIAL: &str = "TestConformance";
/// The one with tests of ours, in the same style.
const OURS: &str = "TestPortway";
/// What stands before the names of our tests here.
const OURS_PREFIX: &str = "Portway-";
const PROFILES: [&str; 5] = ["GATEWAY-HTTP", "GATEWAY-GRPC", "GATEWAY-TLS", "GATEWAY-TCP", "GATEWAY-UDP"];
const REPOSITORY: &str = "https://github.com/portway/portway";
/// Most of the suite's time is waiting: for a status, or for the third good answer in a row.
const PARALLEL: &str = "8";

/// Arguments of `cargo xtask conformance`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the tests whose names match this regular expression.
    #[arg(long)]
    run: Option<String>,
    /// Only this profile (repeatable) [default: all gateway profiles]
    #[arg(long)]
    profile: Vec<String>,
    /// The suite's version.
    #[arg(long, value_enum, default_value_t)]
    suite: Suite,
    /// Also the tests of features that the GatewayClass's status does not name.
    #[arg(long)]
    all_features: bool,
    /// Writes the official report to docs/conformance.
    #[arg(long, conflicts_with_all = ["run", "profile", "all_features"])]
    report: bool,
    /// Uses the running cluster as it is, and leaves it up.
    #[arg(long)]
    reuse: bool,
    /// Leaves the cluster up.
    #[arg(long)]
    keep: bool,
    /// One test after another.
    #[arg(long)]
    sequential: bool,
    /// The cluster's name.
    #[arg(long, default_value = "conformance")]
    name: String,
    #[command(flatten)]
    cluster: cluster::Options,
    /// Further flags of the suite.
    #[arg(last = true)]
    flags: Vec<String>,
}

/// A version of the official suite.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// The one of the Gateway API that Portway is made for.
    #[default]
    #[value(name = "1.7.0")]
    V1_7,
    /// The one that other implementations' last reports used.
    #[value(name = "1.6.3")]
    V1_6,
}

impl Suite {
    fn version(self) -> &'static str {
        match self {
            Self::V1_7 => "v1.7.0",
            Self::V1_6 => "v1.6.3",
        }
    }

    fn module(self) -> &'static str {
        match self {
            Self::V1_7 => "tests/conformance",
            Self::V1_6 => "tests/conformance/v1.6",
        }
    }

    /// What a reader of the report has to know about how it was made.
    fn note(self) -> &'static str {
        match self {
            Self::V1_7 => {
                "# The suite's own sources are unchanged. It imports the wire types of its echo servers from the module\n\
                 # sigs.k8s.io/gateway-api-conformance-images v0.2.0, which the Go module proxy did not serve: the same\n\
                 # packages of sigs.k8s.io/gateway-api/conformance v1.6.3 stood in for it (tests/conformance/go.mod), and\n\
                 # the backend was that version's echo-basic.\n"
            }
            Self::V1_6 => {
                "# No module stood in for another. The backends were the suite's own echo-basic, and CoreDNS v1.12.2 built\n\
                 # with the plugins that the suite's configuration names.\n"
            }
        }
    }
}

/// Builds the suite if it is older than its module, and returns its path.
///
/// # Errors
/// When Go fails.
fn build(suite: Suite) -> anyhow::Result<PathBuf> {
    let module = root()?.join(suite.module());
    let output = root()?.join("target/cluster/bin").join(format!("conformance-{}", suite.version()));
    if !cluster::up_to_date(&output, &module)? {
        let start = Instant::now();
        let mut go = Command::new("go");
        // The suite's go.mod names a toolchain, which `auto` fetches; some installations of Go forbid it by default.
        go.env("GOTOOLCHAIN", "auto").current_dir(module);
        run_quietly(go.args(["test", "-buildvcs=false", "-c", "-o"]).arg(&output).arg("."))?;
        println!("built the suite {} in {:.0} s", suite.version(), start.elapsed().as_secs_f64());
    }
    Ok(output)
}

/// Builds what a run with this suite needs.
///
/// # Errors
/// When a build fails.
pub(crate) fn prepare() -> anyhow::Result<()> {
    cluster::build_tools()?;
    build(Suite::V1_7).map(drop)
}

/// Runs the suite and prints what came of it.
///
/// # Errors
/// When a test fails, or the suite cannot run.
pub(crate) fn run(mut args: Args) -> anyhow::Result<()> {
    let suite = build(args.suite)?;
    let cluster = Cluster::named(&args.name)?;
    if !args.reuse || cluster.running().is_none() {
        if args.suite == Suite::V1_6 {
            args.cluster.crds.get_or_insert_with(|| args.suite.version().to_owned());
            args.cluster.image.push(cluster::build_coredns()?);
        }
        cluster.up(&args.cluster)?;
    }
    let passed = run_suite(&args, &cluster, &suite);
    if !args.reuse && !args.keep {
        cluster.down()?;
    }
    passed
}

fn run_suite(args: &Args, cluster: &Cluster, suite: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    let report = cluster.dir.join("report.yaml");
    let mut command = cluster.command(suite);
    command.args(flags(args)).arg(format!("-report-output={}", report.display()));
    let results = Results::of(&mut command, &cluster.dir.join("suite"))?;
    let failed = results.print(cluster, start.elapsed().as_secs_f64());
    let mut unclaimed = Vec::new();
    if report.exists() {
        unclaimed = summary(&report)?;
        if args.report && failed == 0 {
            publish(args, &report)?;
        }
    }
    if !args.reuse && !args.keep {
        cluster.down()?;
    }
    ensure!(
        results.ended && failed == 0,
        "{failed} tests failed; see {}",
        cluster.dir.join("suite").display()
    );
    ensure!(!args.report || unclaimed.is_empty(), "not published: {}", unclaimed.join(", "));
    Ok(())
}

fn flags(args: &Args) -> Vec<String> {
    let profiles =
        if args.profile.is_empty() { PROFILES.map(str::to_owned).to_vec() } else { args.profile.clone() };
    let name = args.run.as_ref().map(|name| format!("/({name})")).unwrap_or_default();
    // Ours are of kinds and fields of the experimental channel.
    let suites = match args.cluster.channel {
        Channel::Experimental => format!("{OFFICIAL}|{OURS}"),
        Channel::Standard => OFFICIAL.to_owned(),
    };
    let run = format!("^({suites})${name}");
    let mut flags = vec![
        // Otherwise the verdicts come all at once, at the end.
        "-test.v=test2json".to_owned(),
        "-test.timeout=60m".to_owned(),
        format!("-test.parallel={PARALLEL}"),
        format!("-test.run={run}"),
        "-gateway-class=portway".to_owned(),
        format!("-conformance-profiles={}", profiles.join(",")),
        // In and out of the range of the test bed's load balancer.
        "-usable-address=172.20.0.100".to_owned(),
        "-unusable-address=172.31.0.1".to_owned(),
        "-organization=portway".to_owned(),
        "-project=portway".to_owned(),
        format!("-url={REPOSITORY}"),
        format!("-contact={REPOSITORY}/issues"),
        format!("-version=v{}", env!("CARGO_PKG_VERSION")),
        // A new cluster each time: nobody needs the objects removed.
        "-cleanup-base-resources=false".to_owned(),
    ];
    // Otherwise the suite takes them from the status of the GatewayClass.
    if args.all_features {
        flags.extend(["-all-features".to_owned(), "-exempt-features=Mesh".to_owned()]);
    }
    if args.sequential {
        flags.push("-disable-parallel-tests".to_owned());
    }
    flags.extend_from_slice(&args.flags);
    flags
}

/// What became of each of the suite's tests.
#[derive(Default)]
struct Results {
    tests: BTreeMap<String, Outcome>,
    /// Whether the suite came to its end.
    ended: bool,
}

/// What became of one test.
#[derive(Default)]
struct Outcome {
    verdict: String,
    seconds: f64,
    /// What it wrote.
    lines: Vec<String>,
}

impl Results {
    /// Runs the suite, tells of each test as it ends, and leaves what each wrote in a file of its own.
    fn of(command: &mut Command, folder: &Path) -> anyhow::Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(folder)?;
        let mut log = File::create(folder.join("all.log"))?;
        let mut child =
            command.stdout(Stdio::piped()).stderr(log.try_clone()?).spawn().context("starting the suite")?;
        let output = child.stdout.take().context("the suite's output")?;
        let mut results = Self::default();
        let mut current = String::new();
        for line in BufReader::new(output).lines() {
            // The mark of a line that is not a test's own output.
            let line = line?.replace('\u{16}', "");
            writeln!(log, "{line}")?;
            results.read(line, &mut current);
        }
        let status = child.wait()?;
        let whole = results.tests.remove(OFFICIAL);
        results.ended = whole.as_ref().is_some_and(|whole| !whole.verdict.is_empty());
        // It is only worth a line of its own when it failed before its first test.
        if results.tests.get(OURS).is_some_and(|ours| ours.verdict == "PASS") {
            results.tests.remove(OURS);
        }
        for (name, outcome) in &results.tests {
            fs::write(folder.join(format!("{name}.log")), outcome.lines.join("\n"))?;
        }
        if results.tests.is_empty() {
            let lines = whole.map(|whole| whole.lines).unwrap_or_default();
            anyhow::bail!("the suite did not start its tests, {status}:\n{}", lines.join("\n"));
        }
        Ok(results)
    }

    /// Takes one line of `go test -v`. `current` is the test that the lines are from, until another is named.
    fn read(&mut self, line: String, current: &mut String) {
        let trimmed = line.trim_start();
        if let Some(marker) = trimmed.strip_prefix("=== ") {
            if let Some((name, _)) = marker.split_whitespace().nth(1).and_then(test_of) {
                self.tests.entry(name.clone()).or_default();
                *current = name;
            }
            return;
        }
        if let Some((verdict, rest)) = trimmed.strip_prefix("--- ").and_then(|rest| rest.split_once(": ")) {
            let mut words = rest.split_whitespace();
            let Some((name, itself)) = words.next().and_then(test_of) else { return };
            let outcome = self.tests.entry(name.clone()).or_default();
            if itself {
                let time = words.next().unwrap_or_default();
                verdict.clone_into(&mut outcome.verdict);
                outcome.seconds = time.trim_matches(['(', ')', 's']).parse().unwrap_or_default();
                if verdict != "SKIP" {
                    println!("{verdict} {:>6.1} s  {name}", outcome.seconds);
                }
            }
            outcome.lines.push(line);
            return;
        }
        self.tests.entry(current.clone()).or_default().lines.push(line);
    }

    /// Prints the failures with their reasons and the counts; returns how many failed.
    fn print(&self, cluster: &Cluster, seconds: f64) -> usize {
        let of = |verdict: &str| self.tests.values().filter(|test| test.verdict == verdict).count();
        let failed: Vec<_> =
            self.tests.iter().filter(|(_, test)| test.verdict != "PASS" && test.verdict != "SKIP").collect();
        for (name, outcome) in &failed {
            println!("\nFAIL {name}");
            for line in reasons(&outcome.lines) {
                println!("    {line}");
            }
        }
        println!("\n{} passed, {} failed, {} skipped, {seconds:.0} s", of("PASS"), failed.len(), of("SKIP"));
        if !failed.is_empty() {
            println!("what the tests wrote: {}/suite/TEST.log", cluster.dir.display());
            println!("what the pods wrote: {}/logs/NAMESPACE_POD_UID/CONTAINER.log", cluster.dir.display());
        }
        failed.len()
    }
}

/// The suite's test that a path of Go subtests belongs to, and whether the path is of that test itself.
fn test_of(path: &str) -> Option<(String, bool)> {
    let (suite, rest) = path.split_once('/').unwrap_or((path, ""));
    let prefix = match suite {
        OFFICIAL => "",
        OURS => OURS_PREFIX,
        _ => return None,
    };
    match rest.split_once('/') {
        Some((name, _)) => Some((format!("{prefix}{name}"), false)),
        None if rest.is_empty() => Some((suite.to_owned(), true)),
        None => Some((format!("{prefix}{rest}"), true)),
    }
}

/// The first failed subtests and assertions.
fn reasons(lines: &[String]) -> Vec<&str> {
    let failing = lines.iter().filter(|line| line.contains("--- FAIL")).map(|line| line.trim());
    let mut reasons: Vec<&str> = failing.take(4).collect();
    let mut follow = 0;
    for text in lines.iter().map(|line| line.trim()).filter(|text| !text.starts_with("---")) {
        if text.starts_with("Error:") || text.starts_with("Messages:") {
            follow = 2;
        }
        if follow > 0 && !text.starts_with("Test:") {
            reasons.push(text);
            follow -= 1;
        }
        if reasons.len() >= 10 {
            break;
        }
    }
    reasons
}

/// Prints the report's table, and returns what in it speaks against publishing.
fn summary(report: &Path) -> anyhow::Result<Vec<String>> {
    let report: Value = serde_saphyr::from_str(&fs::read_to_string(report)?)?;
    let mut against = Vec::new();
    println!("\n{} {}", text(&report["gatewayAPIVersion"]), text(&report["gatewayAPIChannel"]));
    for profile in report["profiles"].as_array().into_iter().flatten() {
        for level in ["core", "extended"] {
            let result = &profile[level];
            let count = |what: &str| result["statistics"][what].as_u64().unwrap_or_default();
            println!(
                "{:<13} {level:<9} {:<8} {:>3} passed {:>3} failed {:>3} skipped",
                text(&profile["name"]),
                text(&result["result"]),
                count("Passed"),
                count("Failed"),
                count("Skipped")
            );
            if count("Failed") + count("Skipped") > 0 {
                against.push(format!("{} {level}", text(&profile["name"])));
            }
        }
        let unsupported: Vec<_> =
            profile["extended"]["unsupportedFeatures"].as_array().into_iter().flatten().map(text).collect();
        if !unsupported.is_empty() {
            println!("              not claimed: {}", unsupported.join(", "));
        }
    }
    Ok(against)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Writes the report to `docs/conformance`, below what its reader has to know.
fn publish(args: &Args, report: &Path) -> anyhow::Result<()> {
    let channel = args.cluster.channel.name();
    let folder = root()?.join("docs/conformance");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{}-{channel}-default-report.yaml", args.suite.version()));
    let head = format!(
        "# Written by `cargo xtask conformance --report --suite {}` in the test bed of tests/cluster.\n{}",
        args.suite.version().trim_start_matches('v'),
        args.suite.note()
    );
    fs::write(&path, head + &fs::read_to_string(report)?)?;
    println!("wrote {}", path.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Results {
        let mut results = Results::default();
        let mut current = String::new();
        for line in text.lines() {
            results.read(line.to_owned(), &mut current);
        }
        results
    }

    #[test]
    fn each_line_is_its_tests() {
        let results = read(
            "=== RUN   TestConformance\n\
             === RUN   TestConformance/A\n\
             === RUN   TestConformance/A/first_case\n\
             \x20   a.go:1: of A\n\
             === NAME  TestConformance/B\n\
             \x20       Error:    of B\n\
             --- FAIL: TestConformance (3.00s)\n\
             \x20   --- PASS: TestConformance/A (1.50s)\n\
             \x20       --- PASS: TestConformance/A/first_case (0.10s)\n\
             \x20   --- FAIL: TestConformance/B (0.20s)\n\
             --- PASS: TestPortway/C (0.20s)\n",
        );
        let a = &results.tests["A"];
        assert_eq!((a.verdict.as_str(), a.seconds, a.lines[0].as_str()), ("PASS", 1.5, "    a.go:1: of A"));
        let b = &results.tests["B"];
        assert_eq!(b.verdict, "FAIL");
        assert_eq!(reasons(&b.lines), ["--- FAIL: TestConformance/B (0.20s)", "Error:    of B"]);
        assert_eq!(results.tests[OFFICIAL].verdict, "FAIL");
        assert_eq!(results.tests["Portway-C"].verdict, "PASS");
    }

    #[test]
    fn a_test_that_did_not_end_has_failed() {
        let results = read("=== RUN   TestConformance/A\npanic: oh\n");
        assert_eq!(results.print(&Cluster::named("none").unwrap(), 0.0), 1);
    }
}
