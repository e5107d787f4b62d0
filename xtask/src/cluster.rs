//! `cargo xtask cluster`: the test bed of `tests/cluster`, with Portway in it as users install it.
//!
//! Everything lies in `target/cluster`: `bin/` holds the programs, `NAME/` the state and the logs of one cluster. A
//! cluster is one process (`testbed up`) with its children, in a network namespace of its own.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;

use crate::crds;

/// Where the chart installs Portway.
pub(crate) const NAMESPACE: &str = "portway-system";
/// The image that the chart names, less its tag.
const IMAGE: &str = "ghcr.io/portway/portway";
/// The authorization server of our conformance tests.
const EXT_AUTHZ_IMAGE: &str = "portway.dev/test/ext-authz";
/// The official suites' backend, less its tag: since v1.7, before.
const ECHO_IMAGES: [&str; 2] =
    ["registry.k8s.io/gateway-api/conformance/echo-basic", "registry.k8s.io/gateway-api/echo-basic"];

/// Arguments of `cargo xtask cluster`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Builds what is needed, starts a new cluster in the background, installs the CRDs and Portway.
    Up {
        #[command(flatten)]
        cluster: Named,
        #[command(flatten)]
        options: Options,
    },
    /// Installs Portway into a running cluster again, with other values of the chart.
    Install {
        #[command(flatten)]
        cluster: Named,
        #[command(flatten)]
        chart: Chart,
    },
    /// Stops a cluster and leaves its logs.
    Down {
        #[command(flatten)]
        cluster: Named,
    },
    /// Runs kubectl.
    Kubectl {
        #[command(flatten)]
        cluster: Named,
        /// Its arguments.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Runs a program where the cluster's addresses are reachable, with KUBECONFIG set.
    Exec {
        #[command(flatten)]
        cluster: Named,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

/// Which cluster.
#[derive(clap::Args)]
pub(crate) struct Named {
    /// The cluster's name: any number run side by side.
    #[arg(long, default_value = "default")]
    name: String,
}

/// How a cluster is made.
#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// The `portway` program to run [default: target/release/portway, which is built when it is not there]
    #[arg(long)]
    pub(crate) portway: Option<PathBuf>,
    /// The Gateway API's channel.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) channel: Channel,
    /// The Gateway API's version [default: the one that Portway is made for]
    #[arg(long)]
    pub(crate) crds: Option<String>,
    /// IMAGE=FILE: a program that stands for a further image.
    #[arg(long)]
    pub(crate) image: Vec<String>,
    /// Only the cluster and the CRDs.
    #[arg(long)]
    pub(crate) no_portway: bool,
    #[command(flatten)]
    pub(crate) chart: Chart,
}

/// What the chart is rendered with.
#[derive(clap::Args, Default)]
pub(crate) struct Chart {
    /// KEY=VALUE: a value of the chart.
    #[arg(long)]
    set: Vec<String>,
    /// A file of values for the chart.
    #[arg(long)]
    values: Vec<PathBuf>,
}

/// A release channel of the Gateway API.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Channel {
    /// What is stable.
    Standard,
    /// All kinds and fields.
    #[default]
    Experimental,
}

impl Channel {
    /// The channel's name, as in the CRDs' annotation.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Experimental => "experimental",
        }
    }
}

pub(crate) fn run(args: Args) -> anyhow::Result<()> {
    match args.action {
        Action::Up { cluster, options } => {
            let cluster = cluster.cluster()?;
            cluster.up(&options)?;
            cluster.tell();
            Ok(())
        }
        Action::Install { cluster, chart } => cluster.cluster()?.install(&chart),
        Action::Down { cluster } => cluster.cluster()?.down(),
        Action::Kubectl { cluster, arguments } => {
            let mut kubectl = cluster.cluster()?.kubectl();
            Err(kubectl.args(arguments).exec()).context("running kubectl")
        }
        Action::Exec { cluster, command } => {
            let cluster = cluster.cluster()?;
            let mut program = cluster.command(&command[0]);
            Err(program.args(&command[1..]).exec()).with_context(|| format!("running {}", command[0]))
        }
    }
}

impl Named {
    fn cluster(&self) -> anyhow::Result<Cluster> {
        Cluster::named(&self.name)
    }
}

/// One cluster, running or not.
pub(crate) struct Cluster {
    name: String,
    /// Its state and logs.
    pub(crate) dir: PathBuf,
    netns: String,
}

impl Cluster {
    /// The cluster of that name of this checkout.
    ///
    /// # Errors
    /// When the name is not one.
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !name.is_empty() && name.chars().all(plain),
            "a cluster's name is of a-z, 0-9 and '-': {name:?}"
        );
        ensure!(name != "bin", "a cluster cannot be named {name:?}");
        let dir = root()?.join("target/cluster").join(name);
        // Names of network namespaces are the machine's: two checkouts may both have a cluster of this name.
        let mut hash = DefaultHasher::new();
        dir.hash(&mut hash);
        let netns = format!("portway-{name}-{:08x}", hash.finish() as u32);
        Ok(Self { name: name.to_owned(), dir, netns })
    }

    /// A program in the cluster's network namespace, with KUBECONFIG set.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns]).arg(program);
        command.env("KUBECONFIG", self.dir.join("kubeconfig"));
        command
    }

    pub(crate) fn kubectl(&self) -> Command {
        self.command(self.bin("kubectl"))
    }

    /// What `kubectl get` answers.
    ///
    /// # Errors
    /// When it fails.
    pub(crate) fn get(&self, what: &[&str]) -> anyhow::Result<serde_json::Value> {
        let output = self.kubectl().arg("get").args(what).args(["--output", "json"]).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl get {}: {}", what.join(" "), error.trim());
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Applies an object.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub(crate) fn apply(&self, object: &serde_json::Value) -> anyhow::Result<()> {
        let file = self.dir.join("object.json");
        fs::write(&file, object.to_string())?;
        run_quietly(self.kubectl().args(["apply", "--filename"]).arg(file))
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.dir.with_file_name("bin").join(name)
    }

    /// The process id of the running cluster.
    pub(crate) fn running(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.dir.join("testbed.pid")).ok()?.trim().parse().ok()?;
        // Another process may have the number by now: only ours was started with this directory.
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let ours = self.dir.as_os_str().as_encoded_bytes();
        line.split(|byte| *byte == 0).any(|argument| argument == ours).then_some(pid)
    }

    /// Starts the cluster, in place of one that runs, with the CRDs and Portway, and returns once all of it is ready.
    ///
    /// # Errors
    /// When a part of it does not start.
    pub(crate) fn up(&self, options: &Options) -> anyhow::Result<()> {
        build_tools()?;
        let portway = match &options.portway {
            Some(path) => path.canonicalize().with_context(|| format!("no program {}", path.display()))?,
            None if options.no_portway => PathBuf::new(),
            None => release_build()?,
        };
        let channel = options.channel.name();
        let crds = crds::folder(options.crds.as_deref().unwrap_or(crds::VERSION), channel)?;
        self.down()?;
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir).with_context(|| format!("removing {}", self.dir.display()))?;
        }
        fs::create_dir_all(&self.dir)?;

        let mut testbed = Command::new(self.bin("testbed"));
        testbed.arg("up").arg("--dir").arg(&self.dir).args(["--netns", &self.netns]);
        testbed.arg("--apply").arg(crds);
        for image in ECHO_IMAGES {
            testbed.args(["--image", &format!("{image}={}", self.bin("echo-basic").display())]);
        }
        testbed.args(["--image", &format!("{EXT_AUTHZ_IMAGE}={}", self.bin("ext-authz").display())]);
        if !options.no_portway {
            testbed.args(["--image", &format!("{IMAGE}={}", portway.display())]);
        }
        for image in &options.image {
            testbed.args(["--image", image]);
        }
        let start = Instant::now();
        self.spawn(&mut testbed)?;
        println!("cluster {}: ready after {:.1} s", self.name, start.elapsed().as_secs_f64());
        if options.no_portway { Ok(()) } else { self.install(&options.chart) }
    }

    /// Starts the test bed in a session of its own and waits until it is ready.
    fn spawn(&self, testbed: &mut Command) -> anyhow::Result<()> {
        let path = self.dir.join("testbed.log");
        let log = File::create(&path)?;
        testbed.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let mut child = testbed.spawn().context("starting the test bed")?;
        fs::write(self.dir.join("testbed.pid"), child.id().to_string())?;
        let ready = self.dir.join("ready");
        wait_until(Duration::from_secs(120), || ready.exists() || !matches!(child.try_wait(), Ok(None)));
        ensure!(ready.exists(), "the test bed is not ready:\n{}", tail(&path)?);
        Ok(())
    }

    /// Installs Portway from its chart and waits until it is available.
    ///
    /// # Errors
    /// When it does not become available.
    pub(crate) fn install(&self, chart: &Chart) -> anyhow::Result<()> {
        ensure!(self.running().is_some(), "cluster {} is not up", self.name);
        let folder = root()?.join("deploy/helm/portway");
        if !folder.is_dir() {
            println!("Portway is not installed: there is no {}", folder.display());
            return Ok(());
        }
        let mut helm = Command::new(self.bin("helm"));
        helm.args(["template", "portway"]).arg(folder).args(["--namespace", NAMESPACE, "--include-crds"]);
        for set in &chart.set {
            helm.args(["--set", set]);
        }
        for file in &chart.values {
            helm.arg("--values").arg(file);
        }
        let rendered = helm.stderr(Stdio::inherit()).output().context("running helm")?;
        ensure!(rendered.status.success(), "helm: {}", rendered.status);
        let path = self.dir.join("portway.yaml");
        let mut file = File::create(&path)?;
        writeln!(file, "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {NAMESPACE}}}\n---")?;
        file.write_all(&rendered.stdout)?;
        let start = Instant::now();
        run_quietly(self.command(self.bin("testbed")).args(["apply", "--namespace", NAMESPACE]).arg(&path))?;
        let mut wait = self.kubectl();
        wait.args(["--namespace", NAMESPACE, "rollout", "status", "deployment", "--timeout=90s"]);
        if let Err(error) = run_quietly(&mut wait) {
            bail!("Portway does not become ready: {error:#}\n{}", self.controller_logs());
        }
        println!("Portway: ready after {:.1} s", start.elapsed().as_secs_f64());
        Ok(())
    }

    /// The last lines of what the controllers wrote.
    fn controller_logs(&self) -> String {
        let mut kubectl = self.kubectl();
        kubectl.args(["--namespace", NAMESPACE, "get", "pods,events"]);
        let mut text = match kubectl.output() {
            Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
            Err(error) => error.to_string(),
        };
        for file in self.pod_logs().into_iter().filter(|file| file.to_string_lossy().contains(NAMESPACE)) {
            text.push_str(&format!("{}:\n{}", file.display(), tail(&file).unwrap_or_default()));
        }
        text
    }

    /// The log files of all containers that ran.
    pub(crate) fn pod_logs(&self) -> Vec<PathBuf> {
        let entries =
            |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        entries(&self.dir.join("logs")).flat_map(|pod| entries(&pod).collect::<Vec<_>>()).collect()
    }

    /// Stops the cluster; nothing to do when it does not run.
    ///
    /// # Errors
    /// When it does not end.
    pub(crate) fn down(&self) -> anyhow::Result<()> {
        if let Some(pid) = self.running() {
            signal(pid, "TERM")?;
            if !wait_until(Duration::from_secs(30), || self.running().is_none()) {
                signal(pid, "KILL")?;
            }
        }
        // Left behind by one that was killed.
        if Path::new("/run/netns").join(&self.netns).exists() {
            run_quietly(Command::new("ip").args(["netns", "delete", &self.netns]))?;
        }
        Ok(())
    }

    fn tell(&self) {
        let name = if self.name == "default" { String::new() } else { format!(" --name {}", self.name) };
        println!("cargo xtask cluster kubectl{name} -- get gateways -A");
        println!("cargo xtask cluster exec{name} -- curl http://ADDRESS/");
        println!(
            "logs: {}/{{testbed,kube-apiserver,…}}.log, {0}/logs/NAMESPACE_POD_UID/",
            self.dir.display()
        );
    }
}

/// Builds those of the test bed's programs that are older than their sources.
///
/// # Errors
/// When Go, or a program of the system, is missing, or a build fails.
pub(crate) fn build_tools() -> anyhow::Result<()> {
    for program in ["go", "ip", "nft"] {
        let found = Command::new(program).arg(if program == "go" { "version" } else { "-V" }).output();
        ensure!(found.is_ok(), "the test bed needs Go, iproute2 and nftables: there is no `{program}`");
    }
    let source = root()?.join("tests/cluster");
    let (version, minor) = kubernetes(&source)?;
    let stamp = "k8s.io/component-base/version";
    let flags = format!("-X {stamp}.gitVersion={version} -X {stamp}.gitMajor=1 -X {stamp}.gitMinor={minor}");
    go_build(&source, "testbed", ".", &flags)?;
    go_build(&source, "kubectl", "k8s.io/kubernetes/cmd/kubectl", "")?;
    build_helm()?;
    go_build(&source.join("extauthz"), "ext-authz", ".", "")?;
    go_build(&source.join("echo"), "echo-basic", "sigs.k8s.io/gateway-api/conformance/echo-basic", "")
}

/// The version of Kubernetes that the test bed runs, and its minor number.
fn kubernetes(source: &Path) -> anyhow::Result<(String, String)> {
    let modules = fs::read_to_string(source.join("go.mod"))?;
    let version = modules
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .context("tests/cluster/go.mod names no k8s.io/kubernetes")?;
    let minor = version.split('.').nth(1).context("not a version of Kubernetes")?;
    Ok((version.to_owned(), minor.to_owned()))
}

/// Builds helm and returns its path.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_helm() -> anyhow::Result<PathBuf> {
    let source = root()?.join("tests/cluster");
    let (_, minor) = kubernetes(&source)?;
    // As helm's own build does: the version of Kubernetes that charts are rendered for.
    let flags = ["chartutil", "lint/rules"].map(|package| {
        let package = format!("helm.sh/helm/v3/pkg/{package}");
        format!("-X {package}.k8sVersionMajor=1 -X {package}.k8sVersionMinor={minor}")
    });
    go_build(&source, "helm", "helm.sh/helm/v3/cmd/helm", &flags.join(" "))?;
    Ok(root()?.join("target/cluster/bin/helm"))
}

/// Builds the measurement of propagation and returns its path.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_propagation() -> anyhow::Result<PathBuf> {
    go_build(&root()?.join("tests/cluster/propagation"), "propagation", ".", "")?;
    Ok(root()?.join("target/cluster/bin/propagation"))
}

/// Builds the clients of [`crate::echo`] and returns their path.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_load() -> anyhow::Result<PathBuf> {
    go_build(&root()?.join("tests/cluster/load"), "load", ".", "")?;
    Ok(root()?.join("target/cluster/bin/load"))
}

/// Builds CoreDNS, a backend of the suite v1.6.3, and returns the image that it stands for, as `--image` takes it.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_coredns() -> anyhow::Result<String> {
    go_build(&root()?.join("tests/cluster/coredns"), "coredns", ".", "")?;
    Ok(format!("registry.k8s.io/coredns/coredns={}", root()?.join("target/cluster/bin/coredns").display()))
}

/// Builds one program into `target/cluster/bin` unless it is newer than all files below its module's folder.
fn go_build(module: &Path, name: &str, package: &str, flags: &str) -> anyhow::Result<()> {
    let output = root()?.join("target/cluster/bin").join(name);
    if up_to_date(&output, module)? {
        return Ok(());
    }
    let start = Instant::now();
    let mut go = Command::new("go");
    go.args(["build", "-buildvcs=false", "-ldflags", &format!("-s -w {flags}"), "-o"]);
    go.arg(&output).arg(package).current_dir(module);
    run_quietly(&mut go)?;
    println!("built {name} in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Whether a built file is newer than all files below a folder.
pub(crate) fn up_to_date(output: &Path, folder: &Path) -> anyhow::Result<bool> {
    let Ok(built) = fs::metadata(output).and_then(|meta| meta.modified()) else { return Ok(false) };
    Ok(newest(folder)? < built)
}

/// When the last of the files below a folder was changed.
fn newest(folder: &Path) -> anyhow::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        newest = newest.max(if meta.is_dir() { self::newest(&entry.path())? } else { meta.modified()? });
    }
    Ok(newest)
}

/// The release build of Portway, made if there is none.
fn release_build() -> anyhow::Result<PathBuf> {
    let root = root()?;
    let path = root.join("target/release/portway");
    if !path.exists() {
        let mut cargo = Command::new("cargo");
        let status = cargo.args(["build", "--release", "--package", "portway"]).current_dir(root).status()?;
        ensure!(status.success(), "building Portway: {status}");
    }
    Ok(path)
}

/// The root of the checkout.
pub(crate) fn root() -> anyhow::Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in the workspace")
}

/// Runs a command; what it wrote is in the error when it fails, and is dropped otherwise.
pub(crate) fn run_quietly(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("running {:?}", command.get_program()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    let line = command.get_args().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
    ensure!(
        output.status.success(),
        "{} {line}: {}\n{}\n{}",
        command.get_program().to_string_lossy(),
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    Ok(())
}

/// Sends a signal to a process.
///
/// # Errors
/// When there is no such process.
pub(crate) fn signal(pid: u32, name: &str) -> anyhow::Result<()> {
    run_quietly(Command::new("kill").args(["-s", name, &pid.to_string()]))
}

/// Whether the condition came to hold in time.
#[expect(clippy::disallowed_methods, reason = "another process makes it hold, and says so in no other way")]
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// The last 4 kB of a file, from the start of a line.
fn tail(path: &Path) -> anyhow::Result<String> {
    let mut file = File::open(path)?;
    let skip = file.metadata()?.len().saturating_sub(4096);
    file.seek(std::io::SeekFrom::Start(skip))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = if skip == 0 { &*text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok(whole.to_owned())
}
