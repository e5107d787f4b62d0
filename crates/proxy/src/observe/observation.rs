//! The threads and tasks that write down what workers have seen.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;

use super::access_log::AccessLogWriter;
use super::metrics::Metrics;
use super::otlp::Exporter;
use super::recorder::{Entry, Recorder};
use super::trace::Sampler;
use crate::options::{AccessLogTarget, Options};
use crate::proxy::StartError;

/// How many records may wait to be written; further ones are dropped and counted.
const WAITING: usize = 8192;

/// How long records gather before they are written together.
const GATHER: Duration = Duration::from_millis(5);

/// What observes, beyond counting. When it is dropped, the records that wait are still written.
pub(crate) struct Observation {
    metrics: Arc<Metrics>,
    log: Option<SyncSender<Entry>>,
    sampler: Option<Sampler>,
    thread: Option<thread::JoinHandle<()>>,
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
        let mut observation = Self { metrics, log: None, sampler, thread: None };
        if writer.is_some() || exporter.is_some() {
            let (log, records) = sync_channel(WAITING);
            let thread = thread::Builder::new()
                .name("log".to_owned())
                .spawn(move || write(&records, writer, exporter.as_ref()))
                .map_err(StartError::Thread)?;
            (observation.log, observation.thread) = (Some(log), Some(thread));
        }
        Ok(observation)
    }

    /// The recorder of a worker.
    pub(crate) fn recorder(&self, worker: usize) -> Recorder {
        let counts = self.metrics.workers[worker].clone();
        Recorder::new(worker, counts, self.log.clone(), self.sampler.clone())
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        // The workers have gone, so this was the last way to the thread.
        self.log.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been told on standard error.
            let _ = thread.join();
        }
    }
}

/// Writes records until there can be no more; in one go what has come meanwhile.
fn write(records: &Receiver<Entry>, mut writer: Option<AccessLogWriter>, exporter: Option<&Exporter>) {
    let mut failing = false;
    while let Ok(first) = records.recv() {
        let mut written = Ok(());
        let mut next = Some(first);
        while let Some(record) = next {
            if let Some(writer) = &mut writer {
                written = written.and_then(|()| writer.add(&record));
            }
            if let (Some(exporter), Entry::Exchange(record)) = (exporter, record) {
                exporter.export(record);
            }
            next = records.try_recv().ok();
        }
        written = written.and_then(|()| writer.as_mut().map_or(Ok(()), AccessLogWriter::flush));
        warn_once(&mut failing, written);
        // Who sends to a thread that waits has to wake it, which costs a worker more than all else that is
        // recorded of a request.
        #[expect(clippy::disallowed_methods, reason = "the thread does nothing but write")]
        thread::sleep(GATHER);
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
