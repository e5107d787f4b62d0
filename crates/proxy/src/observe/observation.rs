//! The threads and tasks that write down what workers have seen.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;

use super::access_log::AccessLogWriter;
use super::journal::{Batch, Journal, channel};
use super::lines::Lines;
use super::metrics::Metrics;
use super::otlp::Exporter;
use super::recorder::Recorder;
use super::trace::Sampler;
use crate::options::{AccessLogFormat, AccessLogTarget, Options};
use crate::proxy::StartError;

/// How long the end waits for the thread once there is nothing more to come.
const LAST: Duration = Duration::from_secs(2);

/// What observes, beyond counting. When it is dropped, what waits is still written.
pub(crate) struct Observation {
    metrics: Arc<Metrics>,
    format: Option<AccessLogFormat>,
    log: Option<SyncSender<Batch>>,
    sampler: Option<Sampler>,
    /// Disconnected once the thread has ended.
    ended: Option<Mutex<Receiver<()>>>,
}

impl Observation {
    /// Starts what the options want.
    ///
    /// # Errors
    /// When the log cannot be opened or the endpoint for traces is none.
    pub(crate) fn start(
        options: &Options,
        metrics: Arc<Metrics>,
        background: &Handle,
    ) -> Result<Self, StartError> {
        let writer = match &options.access_log {
            Some(log) => Some(AccessLogWriter::open(log).map_err(|error| StartError::AccessLog {
                path: match &log.target {
                    AccessLogTarget::File(path) => path.clone(),
                    AccessLogTarget::Stdout => "standard output".into(),
                },
                error,
            })?),
            None => None,
        };
        let exporter = match &options.tracing {
            Some(tracing) => Some(Exporter::start(tracing, metrics.clone(), background)?),
            None => None,
        };
        let sampler = options.tracing.as_ref().map(|t| Sampler::new(t.sampling));
        let format = options.access_log.as_ref().map(|log| log.format);
        let mut observation = Self { metrics, format, log: None, sampler, ended: None };
        if writer.is_some() || exporter.is_some() {
            let (log, batches) = channel(observation.metrics.workers.len());
            let lost = observation.metrics.clone();
            let (end, ended) = sync_channel::<()>(0);
            let run = move || {
                write(&batches, writer, exporter.as_ref(), &lost);
                drop(exporter);
                drop(end);
            };
            thread::Builder::new().name("log".to_owned()).spawn(run).map_err(StartError::Thread)?;
            (observation.log, observation.ended) = (Some(log), Some(Mutex::new(ended)));
        }
        Ok(observation)
    }

    /// The recorder of a worker.
    pub(crate) fn recorder(&self, worker: usize) -> Recorder {
        let counts = self.metrics.workers[worker].clone();
        let journal = self.log.as_ref().map(|log| Journal::new(self.format.map(Lines::new), log.clone()));
        Recorder::new(worker, counts, journal, self.sampler.clone())
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        // The workers have gone, so this was the last way to the thread.
        self.log.take();
        let Some(ended) = self.ended.take() else { return };
        let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A panic of the thread has been told on standard error.
        if ended.recv_timeout(LAST) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the end of the access log is lost: nobody takes it");
        }
    }
}

/// Writes what comes until there can be no more.
fn write(
    batches: &Receiver<Batch>,
    mut writer: Option<AccessLogWriter>,
    exporter: Option<&Exporter>,
    metrics: &Metrics,
) {
    let mut failing = false;
    while let Ok(Batch { lines, traced, .. }) = batches.recv() {
        if let Some(writer) = &mut writer {
            let written = writer.write(&lines);
            if written.is_err() {
                let lines = memchr::memchr_iter(b'\n', &lines).count();
                metrics.lines_lost.add(lines as u64);
            }
            warn_once(&mut failing, written);
        }
        if let Some(exporter) = exporter {
            traced.into_iter().for_each(|traced| exporter.export(&traced));
        }
    }
}

/// A disk that is full should not fill another one with the news.
fn warn_once(failing: &mut bool, written: io::Result<()>) {
    match written {
        Err(error) if !*failing => {
            *failing = true;
            tracing::error!(%error, "cannot write the access log");
        }
        Err(_) => {}
        Ok(()) => *failing = false,
    }
}
