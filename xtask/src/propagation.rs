//! `cargo xtask propagation`: `tests/cluster/propagation` against Portway in the test bed, and its marks.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::cluster::{self, Cluster};

/// Arguments of `cargo xtask propagation`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Routes to apply one by one, and at once.
    #[arg(long, default_value_t = 1000)]
    routes: u32,
    /// Routes of the last measurement of memory.
    #[arg(long, default_value_t = 5000)]
    many: u32,
    /// Only measures: a mark that is missed is no failure.
    #[arg(long)]
    no_marks: bool,
    /// The cluster's name.
    #[arg(long, default_value = "propagation")]
    name: String,
    #[command(flatten)]
    cluster: cluster::Options,
}

/// Measures, and compares with the marks.
///
/// # Errors
/// When a mark is missed, or the measurement fails.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let program = cluster::build_propagation()?;
    let cluster = Cluster::named(&args.name)?;
    cluster.up(&args.cluster)?;
    let output = cluster.dir.join("propagation.json");
    let mut command = cluster.command(program);
    command.args(["-routes", &args.routes.to_string(), "-many", &args.many.to_string()]);
    command.arg("-audit").arg(cluster.dir.join("audit.log")).arg("-output");
    let status = command.arg(&output).status();
    cluster.down()?;
    ensure!(status?.success(), "the measurement failed; logs: {}", cluster.dir.display());
    let result: Value = serde_json::from_str(&fs::read_to_string(output)?)?;
    let missed = missed(&result).context("the measurement's result lacks a number")?;
    for miss in &missed {
        println!("missed: {miss}");
    }
    ensure!(args.no_marks || missed.is_empty(), "{} marks missed", missed.len());
    Ok(())
}

/// The marks that the result misses; none when it has not all numbers.
fn missed(result: &Value) -> Option<Vec<String>> {
    let mut missed = Vec::new();
    let mut mark = |what: &str, value: f64, limit: f64| {
        if value > limit {
            missed.push(format!("{what}: {value:.1}, mark {limit}"));
        }
    };
    let wrong = result["wrongAnswers"].as_object()?.values().filter_map(Value::as_f64).sum();
    mark("answers other than 404 and 200", wrong, 0.0);
    let at_rest = result["writesAtRest"].as_object()?.values().filter_map(Value::as_f64).sum();
    mark("writes of the controller at rest", at_rest, 0.0);
    mark("p99 of propagation, ms", result["propagation"]["p99Ms"].as_f64()?, 50.0);
    let attached = &result["attachedRoutes"];
    mark("attached routes counted, ms", attached["setupMs"].as_f64()?, 3000.0);
    mark("Gateway status writes", attached["setupStatusWrites"].as_f64()?, 50.0);
    let memory = result["memory"].as_array()?.last()?;
    let bytes = memory["controllerBytes"].as_f64()? + memory["proxyBytes"].as_f64()?;
    mark("memory of controller and proxy with most routes, MB", bytes / 1e6, 150.0);
    Some(missed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_mark_is_held_against_its_number() {
        let mut result = json!({
            "wrongAnswers": {},
            "writesAtRest": {},
            "propagation": {"p99Ms": 49.0},
            "attachedRoutes": {"setupMs": 900.0, "setupStatusWrites": 12},
            "memory": [{"controllerBytes": 1, "proxyBytes": 1}, {"controllerBytes": 90_000_000, "proxyBytes": 50_000_000}],
        });
        assert_eq!(missed(&result), Some(Vec::new()));
        result["wrongAnswers"]["503"] = json!(1);
        result["writesAtRest"]["patch gateways/status"] = json!(1);
        result["propagation"]["p99Ms"] = json!(51.0);
        result["attachedRoutes"] = json!({"setupMs": 3001.0, "setupStatusWrites": 51});
        result["memory"][1]["proxyBytes"] = json!(70_000_000);
        assert_eq!(missed(&result).unwrap().len(), 6);
        assert_eq!(missed(&json!({})), None);
    }
}
