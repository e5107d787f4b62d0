//! `cargo xtask crds`: the Gateway API's CRDs and the Rust types made from them.
//!
//! ```text
//! Go module ─► crates/api/crds/{experimental,standard}/*.yaml   (as they are)
//!           └► schema of each kind ─► crates/api/src/gateway/*.rs and crates/api/src/crds.rs
//! deploy/helm/portway/crds/*.yaml ─► schema of each kind ─► crates/api/src/portway/*.rs, docs/reference/parameters.md
//! ```
//!
//! A generator of our own, because the schemas repeat each nested type at every place where it is used: a general
//! one makes eleven types of one `LocalObjectReference`. Here each Go type is one Rust type (see `names`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

mod emit;
mod names;
mod reference;
mod schema;

const MODULE: &str = "sigs.k8s.io/gateway-api";
/// The version of the Gateway API that Portway is made for.
pub(crate) const VERSION: &str = "v1.7.0";
/// The module's content hash, as Go's checksum database has it.
const SUM: &str = "h1:duVnm7nO6oXfMMUWfcDoBph47CYR/ME3NGxccOVglaY=";
const CHANNELS: [&str; 2] = ["experimental", "standard"];
/// Where Portway's own CRDs are, from `crates/api`: in the chart, which installs them.
const OWN: &str = "../../deploy/helm/portway/crds";
/// The reference page of GatewayParameters, from `crates/api`.
const PARAMETERS: &str = "../../docs/reference/parameters.md";

/// Options of `cargo xtask crds`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Compares with what is checked in, and writes nothing.
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let api = api_crate()?;
    let generated = generate(&api)?;
    let stale = stale(&api, &generated)?;
    if args.check {
        ensure!(stale.is_empty(), "not as generated (run `cargo xtask crds`): {}", list(&stale));
        return Ok(());
    }
    for path in &stale {
        let target = api.join(path);
        match generated.get(path) {
            Some(text) => {
                fs::create_dir_all(target.parent().context("a file has a folder")?)?;
                fs::write(&target, text).with_context(|| format!("writing {}", target.display()))?;
            }
            None => fs::remove_file(&target).with_context(|| format!("removing {}", target.display()))?,
        }
    }
    println!("{MODULE}@{VERSION}: {} files, {} changed", generated.len(), stale.len());
    Ok(())
}

fn api_crate() -> anyhow::Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask is in the workspace")?;
    Ok(workspace.join("crates/api"))
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The files in the generated folders that differ from, or are not among, what the generator writes.
fn stale(api: &Path, generated: &BTreeMap<PathBuf, String>) -> anyhow::Result<Vec<PathBuf>> {
    let mut stale = BTreeSet::new();
    for (path, text) in generated {
        if fs::read_to_string(api.join(path)).ok().as_ref() != Some(text) {
            stale.insert(path.clone());
        }
    }
    for folder in ["crds/experimental", "crds/standard", "src/gateway", "src/portway"] {
        let Ok(entries) = fs::read_dir(api.join(folder)) else { continue };
        for entry in entries {
            let path = Path::new(folder).join(entry?.file_name());
            if !generated.contains_key(&path) {
                stale.insert(path);
            }
        }
    }
    Ok(stale.into_iter().collect())
}

/// Everything that the generator writes, by path within `crates/api`.
fn generate(api: &Path) -> anyhow::Result<BTreeMap<PathBuf, String>> {
    let module = fetch(VERSION)?;
    let mut files = BTreeMap::new();
    let mut embedded = Vec::new();
    let mut types = schema::Types::default();
    for channel in CHANNELS {
        let mut texts = Vec::new();
        for (name, text) in crd_files(&module.join("config/crd").join(channel))? {
            if channel == "experimental" {
                read_crds(&name, &text, &mut types)?;
            }
            texts.push(name.clone());
            files.insert(Path::new("crds").join(channel).join(&name), text);
        }
        embedded.push((channel, texts));
    }
    let mut own = schema::Types::default();
    let mut own_files = Vec::new();
    for (name, text) in crd_files(&api.join(OWN))? {
        for crd in read_crds(&name, &text, &mut own)? {
            if crd["spec"]["names"]["kind"] == "GatewayParameters" {
                files.insert(PARAMETERS.into(), reference::page(&crd));
            }
        }
        own_files.push(name);
    }
    files.insert(
        "src/crds.rs".into(),
        rustfmt(&emit::embedded(MODULE, VERSION, &embedded, &format!("../{OWN}"), &own_files))?,
    );
    for (folder, title, types) in
        [("src/gateway", "The Gateway API's kinds", &types), ("src/portway", "Portway's own kinds", &own)]
    {
        for (name, text) in emit::modules(title, types)? {
            files.insert(Path::new(folder).join(name), rustfmt(&text)?);
        }
    }
    Ok(files)
}

/// The YAML files of one channel, in order of name.
fn crd_files(folder: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = name.starts_with("gateway.networking.") || name.starts_with("portway.dev_");
        if ours && name.ends_with(".yaml") {
            files.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(files)
}

/// Adds the types of the CRDs in a file, and returns the CRDs.
fn read_crds(name: &str, text: &str, types: &mut schema::Types) -> anyhow::Result<Vec<Value>> {
    let mut documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, serde_saphyr::options! { budget: None })
            .with_context(|| format!("parsing {name}"))?;
    documents.retain(|document| document["kind"] == "CustomResourceDefinition");
    for document in &documents {
        types.add_crd(document).with_context(|| format!("reading {name}"))?;
    }
    Ok(documents)
}

/// The folder with the CRDs of one channel, of any published version of the Gateway API.
pub(crate) fn folder(version: &str, channel: &str) -> anyhow::Result<PathBuf> {
    if version == VERSION {
        return Ok(api_crate()?.join("crds").join(channel));
    }
    Ok(fetch(version)?.join("config/crd").join(channel))
}

/// The folder of the Go module, fetched into Go's module cache; [`VERSION`] is checked against [`SUM`].
fn fetch(version: &str) -> anyhow::Result<PathBuf> {
    let scratch = std::env::temp_dir().join(format!("portway-xtask-crds-{}", std::process::id()));
    fs::create_dir_all(&scratch)?;
    fs::write(scratch.join("go.mod"), "module scratch\n\ngo 1.24\n")?;
    let found = fetch_in(&scratch, version);
    fs::remove_dir_all(&scratch)?;
    found
}

fn fetch_in(scratch: &Path, version: &str) -> anyhow::Result<PathBuf> {
    let go = |args: &[&str]| -> anyhow::Result<String> {
        let output = Command::new("go").args(args).current_dir(scratch).env("GOFLAGS", "-mod=mod").output();
        let output = output.context("running `go`: Go fetches the Gateway API's module")?;
        ensure!(
            !output.stdout.is_empty(),
            "`go {}` failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let download: Value =
        serde_json::from_str(&go(&["mod", "download", "-json", &format!("{MODULE}@{version}")])?)?;
    if version == VERSION && download["Sum"] != SUM {
        bail!("{MODULE}@{version} is not what it was: {download}");
    }
    // A Go older than the module's `go` line downloads and unpacks it all the same, but reports no folder.
    let folder = match download["Dir"].as_str() {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(go(&["env", "GOMODCACHE"])?.trim()).join(format!("{MODULE}@{version}")),
    };
    ensure!(folder.is_dir(), "{MODULE}@{version} was not unpacked: {download}");
    Ok(folder)
}

fn rustfmt(text: &str) -> anyhow::Result<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024"])
        // Where rustfmt.toml is.
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("running rustfmt")?;
    child.stdin.take().context("rustfmt's input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "rustfmt refused the generated code");
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_checked_in_is_what_the_crds_say() {
        run(&Args { check: true }).unwrap();
    }
}
