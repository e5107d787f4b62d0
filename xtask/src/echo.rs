//! A Gateway of the test bed with a route to a backend that answers (`tests/cluster/echo.yaml`), and clients for it.

use std::fs;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::cluster::{self, Cluster, root, run_quietly, signal, wait_until};

/// Where all of it is.
pub(crate) const NAMESPACE: &str = "echo";
const HOST: &str = "echo.example";
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The Gateway, programmed.
pub(crate) struct Echo<'a> {
    cluster: &'a Cluster,
    load: PathBuf,
    url: String,
}

impl<'a> Echo<'a> {
    /// Makes the Gateway and all that it needs, and waits until the route is served.
    ///
    /// # Errors
    /// When it is not.
    pub(crate) fn new(cluster: &'a Cluster) -> anyhow::Result<Self> {
        let load = cluster::build_load()?;
        let manifest = root()?.join("tests/cluster/echo.yaml");
        run_quietly(cluster.kubectl().args(["apply", "--filename"]).arg(manifest))?;
        let wait = |what: &str, condition: &str| {
            let wait = ["--namespace", NAMESPACE, "wait", what, condition, "--timeout=60s"];
            run_quietly(cluster.kubectl().args(wait))
        };
        wait("deployment/echo", "--for=condition=Available")?;
        wait("gateway/edge", "--for=condition=Programmed")?;
        let address =
            cluster.get(&["gateway/edge", "--namespace", NAMESPACE])?["status"]["addresses"][0]["value"]
                .as_str()
                .context("the Gateway has no address")?
                .to_owned();
        let echo = Self { cluster, load, url: format!("http://{address}/") };
        echo.served("0")?;
        Ok(echo)
    }

    /// Has the route tell another revision, and waits until it does; returns how long that took.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn revise(&self, revision: &str) -> anyhow::Result<Duration> {
        let path = "/spec/rules/0/filters/0/responseHeaderModifier/set/0/value";
        let patch = serde_json::json!([{"op": "replace", "path": path, "value": revision}]).to_string();
        let start = Instant::now();
        let arguments =
            ["--namespace", NAMESPACE, "patch", "httproute/echo", "--type=json", "--patch", &patch];
        run_quietly(self.cluster.kubectl().args(arguments))?;
        self.served(revision)?;
        Ok(start.elapsed())
    }

    /// Waits until the route tells this revision.
    fn served(&self, revision: &str) -> anyhow::Result<()> {
        self.answers(&self.url, revision)
    }

    /// Waits until the answer at a URL tells this revision.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn answers(&self, url: &str, revision: &str) -> anyhow::Result<()> {
        let wanted = format!("X-Revision: {revision}");
        let mut last = String::new();
        let served = wait_until(PATIENCE, || {
            let mut once = self.cluster.command(&self.load);
            let output = once.args(["-url", url, "-host", HOST, "-once"]).output();
            last = output.map_or_else(
                |error| error.to_string(),
                |output| {
                    [output.stdout, output.stderr]
                        .map(|text| String::from_utf8_lossy(&text).into_owned())
                        .concat()
                },
            );
            last.lines().any(|line| line.trim() == wanted)
        });
        ensure!(served, "{url} does not answer with {wanted:?}, but:\n{last}");
        Ok(())
    }

    /// Begins to send requests.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub(crate) fn load(&self) -> anyhow::Result<Load> {
        let output = self.cluster.dir.join("load.json");
        let mut command = self.cluster.command(&self.load);
        command.args(["-url", &self.url, "-host", HOST, "-output"]).arg(&output);
        Ok(Load { child: command.spawn().context("starting the load")?, output })
    }
}

/// Requests that are being sent.
pub(crate) struct Load {
    child: Child,
    output: PathBuf,
}

impl Load {
    /// Ends them, tells what became of them, and returns how many failed.
    ///
    /// # Errors
    /// When the program failed.
    pub(crate) fn end(mut self) -> anyhow::Result<u64> {
        // `ip netns exec` becomes the program, so the process is the same.
        signal(self.child.id(), "TERM")?;
        ensure!(self.child.wait()?.success(), "the load failed");
        let result: Value = serde_json::from_str(&fs::read_to_string(&self.output)?)?;
        let mut failed = 0;
        for (kind, result) in result.as_object().context("not a result")? {
            let count = |what: &str| result[what].as_u64().unwrap_or_default();
            failed += count("failed");
            let (requests, longest) = (count("requests"), result["longestMs"].as_f64().unwrap_or_default());
            println!("  {kind}: {requests} requests, {} failed, longest {longest:.0} ms", count("failed"));
            for failure in result["failures"].as_array().into_iter().flatten() {
                println!("    {}", failure.as_str().unwrap_or_default());
            }
            ensure!(requests > 0, "{kind}: no requests were made");
        }
        Ok(failed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It has ended, or what used it has failed.
        let _ = self.child.kill();
    }
}
