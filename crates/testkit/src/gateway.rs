//! A gateway from YAML: store, translation and proxy, on free ports of loopback.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use portway_api::object::Time;
use portway_proxy::{Applied, BindMode, DrainTimes, Options, Proxy};
use portway_store::{Changes, Resources};
use portway_translate::{Translation, Translator};

/// A running gateway; it ends when it is dropped.
pub struct Gateway {
    proxy: Proxy,
    translator: Translator,
    resources: Resources,
    translation: Translation,
    applied: Applied,
}

impl Gateway {
    /// Boots a gateway with two workers.
    ///
    /// # Errors
    /// When the YAML has errors of its own, or the proxy cannot start. Objects that are refused are none.
    pub fn from_yaml(yaml: &str) -> anyhow::Result<Self> {
        Self::with(yaml, Options { workers: NonZeroUsize::new(2), ..Options::default() })
    }

    /// Boots a gateway with options of the test's own; the ports are free ones whatever they say.
    ///
    /// # Errors
    /// As [`Gateway::from_yaml`].
    pub fn with(yaml: &str, options: Options) -> anyhow::Result<Self> {
        let options = Options { bind: BindMode::Ephemeral, drain: DrainTimes::default(), ..options };
        let proxy = Proxy::start(options)?;
        let mut translator = Translator::new();
        let resources = read(yaml)?;
        let translation = translate(&mut translator, &resources, &Changes::default());
        let applied = proxy.apply(Arc::clone(&translation.plan));
        Ok(Self { proxy, translator, resources, translation, applied })
    }

    /// Serves this YAML instead, as an edit of the files would have it; returns when every worker does.
    ///
    /// # Errors
    /// When the YAML has errors of its own.
    pub fn apply(&mut self, yaml: &str) -> anyhow::Result<&Applied> {
        let resources = read(yaml)?;
        let changes = resources.changes_since(&self.resources);
        self.translation = translate(&mut self.translator, &resources, &changes);
        self.resources = resources;
        self.applied = self.proxy.apply(Arc::clone(&self.translation.plan));
        Ok(&self.applied)
    }

    /// Where the listener of that name (a listener's `name`) is reached.
    ///
    /// # Errors
    /// When no such listener serves.
    pub fn addr(&self, listener: &str) -> anyhow::Result<SocketAddr> {
        let serves = |port: &&portway_proxy::AppliedPort| {
            port.listeners.iter().any(|source| source.section.as_deref() == Some(listener))
        };
        let port = self.applied.ports.iter().find(serves);
        let port =
            port.with_context(|| format!("no listener {listener} serves: {:?}", self.translation.problems))?;
        match &port.bound {
            Ok(address) => Ok(*address),
            Err(why) => bail!("listener {listener}: {why}"),
        }
    }

    /// What became of the objects.
    pub fn translation(&self) -> &Translation {
        &self.translation
    }

    /// The proxy itself, for what this does not do.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }
}

fn read(yaml: &str) -> anyhow::Result<Resources> {
    Resources::from_documents(yaml).map_err(|found| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("the test's YAML has errors:\n{}", lines.join("\n"))
    })
}

fn translate(translator: &mut Translator, resources: &Resources, changes: &Changes) -> Translation {
    let now = Time(std::time::SystemTime::now().into());
    translator.update(resources, changes, &portway_translate::Options::new(now))
}
