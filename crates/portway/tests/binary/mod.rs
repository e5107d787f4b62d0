//! The real binary, started and read line by line.

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};

use anyhow::{Context as _, bail};
use portway_testkit::PATIENCE;

/// A running `portway run`; killed when it is dropped.
pub(crate) struct Portway {
    child: Child,
    lines: Receiver<String>,
    /// What it has printed so far.
    pub(crate) printed: String,
}

impl Portway {
    /// Starts `portway run` on free ports, and waits until it serves.
    pub(crate) fn run(folder: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portway"));
        command
            .args(["run", "--free-ports", "--admin", "127.0.0.1:0", "--workers", "2"])
            .args(options)
            .arg(folder);
        Self::from(command)
    }

    /// Starts a command, and waits until it serves.
    pub(crate) fn from(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("its standard output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut portway = Self { child, lines, printed: String::new() };
        portway.wait_for("Ctrl-C")?;
        Ok(portway)
    }

    /// Reads until a line with this text comes; returns the line.
    pub(crate) fn wait_for(&mut self, text: &str) -> anyhow::Result<String> {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                bail!("{text:?} was not printed; this was:\n{}", self.printed);
            };
            self.printed += &line;
            self.printed.push('\n');
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// The address of a listener, as it was printed.
    pub(crate) fn address(&self, listener: &str) -> anyhow::Result<SocketAddr> {
        let line =
            self.printed.lines().map(str::trim).find(|line| line.starts_with(&format!("{listener} HTTP")));
        let address = line.and_then(|line| line.split(' ').nth(2)).context("the listener's line")?;
        Ok(address.parse()?)
    }

    /// The admin address, as it was printed.
    pub(crate) fn admin(&self) -> anyhow::Result<SocketAddr> {
        let address = self.printed.split("Admin http://").nth(1).and_then(|rest| rest.split(' ').next());
        Ok(address.context("the admin address")?.parse()?)
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        anyhow::ensure!(status.success());
        Ok(())
    }

    /// Waits until it has ended.
    pub(crate) fn ended(mut self) -> anyhow::Result<(ExitStatus, String)> {
        let status = self.child.wait()?;
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.printed += &line;
            self.printed.push('\n');
        }
        Ok((status, std::mem::take(&mut self.printed)))
    }
}

impl Drop for Portway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the binary to its end.
pub(crate) fn portway(arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_portway")).args(arguments).current_dir(root()).output()?)
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A copy of a folder, for tests that edit it.
pub(crate) fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The host of [`route`].
pub(crate) const HOST: &str = "shop.example.com";

/// The Gateway `infra/edge` with the listener `http`.
pub(crate) const GATEWAY: &str = "\
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: portway}
spec: {controllerName: portway.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  gatewayClassName: portway
  listeners:
    - {name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}
";

/// The HTTPRoute `apps/r`, whose rules are in YAML's flow style.
pub(crate) fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: apps}}\nspec:\n  \
         parentRefs: [{{name: edge, namespace: infra}}]\n  hostnames: [{HOST}]\n  rules: {rules}\n"
    )
}

/// A folder with the Gateway, `route.yaml` and `services.yaml`.
pub(crate) fn folder(route: &str, services: &[String]) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("gateway.yaml"), GATEWAY)?;
    std::fs::write(folder.path().join("route.yaml"), route)?;
    std::fs::write(folder.path().join("services.yaml"), services.join("---\n"))?;
    Ok(folder)
}
