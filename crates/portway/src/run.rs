//! `portway run`: serves what files say, and follows them.
//!
//! ```text
//! main thread:   files ─► store ─► demo backends ─► translate ─► proxy.apply ─► statuses      (one at a time)
//! source thread: waits for changes of the files  ─┐
//! control thread: signals, demo backends         ─┴─► events to the main thread
//! ```

mod summary;
mod tries;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use portway_api::diagnostic::Diagnostic;
use portway_plan::{Plan, Source, Transport};
use portway_proxy::snapshot::PortKey;
use portway_proxy::{Applied, AppliedPort, BindMode, DrainTimes, Options, Proxy, StartError, StatusSource};
use portway_store::{Change, Changes, FileSource, Loaded, Resources, Update};
use portway_translate::{Machine, Problem, Translation, Translator};
use serde_json::json;

use crate::data_plane::DataPlane;
use crate::demo::Backends;
use crate::style::Style;
use crate::{print, signals, world};

/// How often a port that could not be bound is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(2);
/// How long there must have been no change before the memory that changes took is given back. The proxy gives
/// back the text that ran a second after the last one: this is text that runs, too.
const SETTLED: Duration = Duration::from_millis(500);

/// The arguments of `portway run`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Folders (with all in them) and files of Gateway API YAML; watched
    #[arg(required = true, value_name = "DIR")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    data_plane: DataPlane,
    /// Seconds after SIGTERM or SIGINT at which requests that are still open are cut
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    drain: u64,
    /// Binds a free port of 127.0.0.1 for each port of the Gateways (for tests)
    #[arg(long)]
    free_ports: bool,
}

/// What the main thread waits for.
enum Event {
    Changed(Box<Update>),
    End,
}

/// Serves until the process is told to end, then drains.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    let style = Style::of(&io::stdout());
    if let Some(missing) = args.paths.iter().find(|path| !path.exists()) {
        print::complaint(format_args!("portway run: {}: no such file or folder", missing.display()));
        return Ok(ExitCode::from(crate::USAGE));
    }
    let (sender, events) = mpsc::sync_channel(1);
    let control = control(sender.clone())?;
    let (mut source, loaded) = FileSource::open(args.paths.iter().cloned());
    let Loaded { resources, diagnostics } = loaded;

    let told = Arc::<Mutex<Told>>::default();
    let proxy = start(&args, &told)?;
    let mut serving = Serving {
        proxy,
        translator: Translator::new(),
        backends: Backends::running(control),
        obstacles: Obstacles::default(),
        resources: Resources::default(),
        translation: Translation::default(),
        told,
    };
    let applied = serving.take(resources, Changes::default());
    serving.tell(&diagnostics);
    print::news(summary::render(&serving, &applied, &args.paths, &diagnostics, began.elapsed(), style));

    let stop = source.handle();
    let watching = std::thread::Builder::new().name("portway-files".to_owned()).spawn(move || {
        while let Some(update) = source.next() {
            if sender.send(Event::Changed(Box::new(update))).is_err() {
                break;
            }
        }
    })?;
    let mut tidy = false;
    loop {
        let pause =
            if !tidy { Some(SETTLED) } else { (!serving.obstacles.ports.is_empty()).then_some(BIND_AGAIN) };
        let event = match pause {
            None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(pause) => events.recv_timeout(pause),
        };
        match event {
            Ok(Event::Changed(update)) => {
                print::news(serving.follow(*update, style));
                tidy = false;
            }
            Err(RecvTimeoutError::Timeout) if !tidy => {
                portway_pages::give_back_freed();
                tidy = true;
            }
            Err(RecvTimeoutError::Timeout) => print::news(serving.bind_again(style)),
            Ok(Event::End) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let draining = "Draining: requests under way end, new connections are refused. Again to end at once.";
    print::news(format_args!("\n{}\n", style.dim(draining)));
    stop.stop();
    let drained = serving.proxy.shutdown();
    drop(events);
    if watching.join().is_err() {
        tracing::error!("the file watcher has panicked");
    }
    let cut = if drained.cut == 0 { String::new() } else { format!(", {} connections cut", drained.cut) };
    let drained = format!("Drained in {:.1} s{cut}.", drained.took.as_secs_f64());
    print::news(format_args!("{}\n", style.dim(drained)));
    Ok(ExitCode::SUCCESS)
}

/// Starts the thread of signals and demo backends.
fn control(sender: mpsc::SyncSender<Event>) -> anyhow::Result<tokio::runtime::Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let signals = move || {
        runtime.block_on(async move {
            if let Err(error) = signals::ended().await {
                tracing::error!(%error, "signals cannot be awaited");
                return std::future::pending().await;
            }
            // The demo backends on this thread must go on while the proxy drains.
            tokio::task::spawn_blocking(move || drop(sender.send(Event::End)));
            let _ = signals::ended().await;
            signals::end_now();
        });
    };
    std::thread::Builder::new().name("portway-control".to_owned()).spawn(signals)?;
    Ok(handle)
}

fn start(args: &Args, told: &Arc<Mutex<Told>>) -> anyhow::Result<Proxy> {
    let told = Arc::clone(told);
    let status = move || told.lock().unwrap_or_else(PoisonError::into_inner).json().to_string();
    let options = Options {
        bind: if args.free_ports { BindMode::Ephemeral } else { BindMode::AsPlanned },
        status: Some(StatusSource(Arc::new(status))),
        drain: DrainTimes { min: Duration::ZERO, max: Duration::from_secs(args.drain) },
        ..args.data_plane.options()
    };
    match Proxy::start(options.clone()) {
        // Nobody asked for the default address; a second Portway on the machine can do without it.
        Err(StartError::Admin { address, error }) if args.data_plane.default_admin() => {
            tracing::warn!(%address, %error, "serving without an admin address (--admin chooses another)");
            Proxy::start(Options { admin: None, ..options }).context("cannot start")
        }
        other => other.context("cannot start"),
    }
}

/// What is served, and by what.
struct Serving {
    proxy: Proxy,
    translator: Translator,
    backends: Backends,
    obstacles: Obstacles,
    resources: Resources,
    translation: Translation,
    told: Arc<Mutex<Told>>,
}

impl Serving {
    /// Serves these objects from now on.
    fn take(&mut self, mut resources: Resources, mut changes: Changes) -> Applied {
        for error in self.backends.sync(&mut resources, &mut changes) {
            tracing::error!(%error, "a demo backend cannot start");
        }
        self.resources = resources;
        self.translation = self.translate(&changes);
        self.apply()
    }

    /// Gives the plan to the proxy; the statuses then say which ports are bound and which listeners serve.
    fn apply(&mut self) -> Applied {
        let applied = self.proxy.apply(Arc::clone(&self.translation.plan));
        let obstacles = Obstacles::of(&applied);
        if obstacles != self.obstacles {
            self.obstacles = obstacles;
            self.translation = self.translate(&Changes::default());
        }
        self.told.lock().unwrap_or_else(PoisonError::into_inner).translation = self.translation.clone();
        applied
    }

    /// Has `/status` tell what there is to say about the files.
    fn tell(&self, diagnostics: &[Diagnostic]) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).diagnostics = diagnostics.to_vec();
    }

    fn translate(&mut self, changes: &Changes) -> Translation {
        let options = world::options(self.obstacles.machine());
        self.translator.update(&self.resources, changes, &options)
    }

    /// Takes a change over; what became of it is returned for people.
    fn follow(&mut self, update: Update, style: Style) -> String {
        let began = Instant::now();
        let plan = Arc::clone(&self.translation.plan);
        let before = self.translation.problems.clone();
        let changes = update.changes.clone();
        self.tell(&update.diagnostics);
        let applied = (!changes.is_empty()).then(|| self.take(update.resources, update.changes));
        let took = began.elapsed();
        let news = world::problems(&self.translation.problems, &before, &self.resources);
        // One that is told in other words is still there.
        let same = |a: &Problem, b: &Problem| (&a.reason, &a.path) == (&b.reason, &b.path);
        let still = |key, problem| self.translation.problems.of(key).iter().any(|now| same(now, problem));
        let resolved = before.iter().filter(|(key, problem)| !still(key, problem));
        let mut out = summary::changes(&changes, took, style);
        for (key, problem) in resolved {
            out += &format!("{} {key}: no longer {}\n", style.good("✓"), problem.reason);
        }
        out += &summary::ports(&plan, &self.translation.plan, &self.obstacles.ports, style);
        for failed in applied.iter().flat_map(|applied| &applied.failed) {
            out += &format!("{} {}: {}\n", style.bad("✗"), failed.listener, failed.reason);
        }
        let added = changes.iter().filter(|(_, change)| *change == Change::Added);
        let unserved = world::unserved(added.map(|(key, _)| key.clone()), &self.resources);
        let lost = self.lost_endpoints(&plan);
        for diagnostic in update.news.iter().chain(&news).chain(&lost).chain(&unserved) {
            out += &diagnostic.render(style.colour());
            out.push('\n');
        }
        out
    }

    /// Warnings for the backends that had endpoints, or were not there, in the plan before.
    fn lost_endpoints(&self, before: &Plan) -> Vec<Diagnostic> {
        let now = &self.translation.plan;
        if now.endpoints.ptr_eq(&before.endpoints) && now.backends.ptr_eq(&before.backends) {
            return Vec::new();
        }
        let known = world::without_endpoints(before);
        world::no_endpoints(world::without_endpoints(now).difference(&known), &self.resources)
    }

    /// Tries ports again that could not be bound.
    fn bind_again(&mut self, style: Style) -> String {
        let before = self.obstacles.ports.clone();
        self.apply();
        let bound = before.keys().filter(|key| !self.obstacles.ports.contains_key(key));
        bound
            .map(|(_, port, transport)| {
                let port = summary::numbered(*port, *transport);
                format!("{} port {port} is bound now\n", style.good("✓"))
            })
            .collect()
    }
}

/// What the proxy could not do of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Obstacles {
    /// Ports that could not be bound, and why.
    ports: BTreeMap<(Option<IpAddr>, u16, Transport), String>,
    /// Listeners that do not serve although their port is bound, and why.
    listeners: BTreeMap<Source, String>,
}

impl Obstacles {
    fn of(applied: &Applied) -> Self {
        let port = |port: &AppliedPort| {
            let PortKey { address, port: number, transport } = port.key;
            Some(((address, number, transport), port.bound.clone().err()?))
        };
        let silent = applied.failed.iter().filter(|failed| !failed.serves);
        Self {
            ports: applied.ports.iter().filter_map(port).collect(),
            listeners: silent.map(|failed| (failed.listener.clone(), failed.reason.clone())).collect(),
        }
    }

    fn machine(&self) -> Machine {
        Machine { unavailable: self.ports.clone(), failed: self.listeners.clone(), ..world::machine() }
    }
}

/// What `/status` answers.
#[derive(Default)]
struct Told {
    translation: Translation,
    diagnostics: Vec<Diagnostic>,
}

impl Told {
    fn json(&self) -> serde_json::Value {
        let objects: Vec<_> = self
            .translation
            .statuses
            .iter()
            .map(|(key, status)| {
                json!({
                    "kind": key.kind.as_str(),
                    "namespace": &*key.namespace,
                    "name": &*key.name,
                    "status": &**status,
                    "problems": self.translation.problems.of(key),
                })
            })
            .collect();
        json!({"objects": objects, "diagnostics": self.diagnostics})
    }
}

#[cfg(test)]
mod tests;
