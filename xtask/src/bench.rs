//! Portway beside its peers, by the kit in `bench/` (its README says what is measured and how to read it).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The scenarios, as bench/README.md names them.
    #[arg(long, default_value = "a,b,c,d,e,f,g,h,m")]
    scenario: String,
    /// The proxies to measure; all that are installed unless given.
    #[arg(long)]
    peers: Option<String>,
    /// How often each proxy is measured; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of load in each round.
    #[arg(long, default_value_t = 5)]
    secs: u32,
    /// First installs the peers and load generators: Debian 12, as root, some minutes.
    #[arg(long)]
    install: bool,
    /// Writes the tables and marks into docs/performance.md; measures memory and two workers, too.
    #[arg(long)]
    write: bool,
    /// Instead measures 10,000 HTTPRoutes in files: start, memory, one changed route.
    #[arg(long)]
    scale: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in the workspace")?;
    let kit = root.join("bench");
    if args.install {
        step(Command::new(kit.join("setup.sh")).arg("--pingora"))?;
    }
    step(Command::new("cargo").args(["build", "--release", "--package", "portway"]).current_dir(root))?;
    if args.scale {
        return step(Command::new(kit.join("scale.py")).current_dir(root));
    }
    step(&mut Command::new(kit.join("gen.py")))?;
    let results = root.join("target/bench");
    std::fs::create_dir_all(&results)?;
    let json = |name: &str| results.join(name).with_extension("json");
    let (rounds, secs) = (args.rounds.to_string(), args.secs.to_string());
    let measure = |arguments: &[&str], peers: Option<&str>, name: &str| {
        let mut bench = Command::new(kit.join("bench.py"));
        bench.args(arguments).args(["--rounds", &rounds, "--secs", &secs]).arg("--json").arg(json(name));
        if let Some(peers) = peers {
            bench.args(["--peers", peers]);
        }
        step(bench.current_dir(root))
    };
    measure(&["run", &args.scenario], args.peers.as_deref(), "run")?;
    if !args.write {
        return Ok(());
    }
    measure(&["run", "a", "--set", "w2"], Some("portway"), "w2")?;
    measure(&["mem"], args.peers.as_deref(), "mem")?;
    step(Command::new(kit.join("report.py")).args(["run", "w2", "mem"].map(json)))
}

fn step(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}
