//! A thread with a runtime for all that is not on the request path: the admin server, the export of traces,
//! the resolution of names, the end of ticket keys, the memory of what has run once.

use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use tokio::runtime::{Builder, Handle};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

/// How long there must have been no new configuration.
const SETTLED: Duration = Duration::from_secs(1);
/// Memory is given back at most this often, since what serves requests has to come back each time.
const PAUSE: Duration = Duration::from_secs(600);

/// The thread; ends when this is dropped.
pub(crate) struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Background {
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("background".to_owned()).spawn(move || {
            // Both a word and the end of the sender stop it.
            let _ = runtime.block_on(stopped);
            // The system's resolver may wait for a server that does not answer, for as long as it likes.
            runtime.shutdown_background();
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where to spawn tasks.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

/// Gives the memory back that holds the text of what has run to take configurations over, each time that one
/// has been applied and none follows.
pub(crate) async fn tidy_after(applied: Arc<Notify>) {
    loop {
        applied.notified().await;
        while timeout(SETTLED, applied.notified()).await.is_ok() {}
        match portway_pages::give_back() {
            Ok(bytes) => tracing::debug!(bytes, "text that has run was given back"),
            Err(error) => tracing::debug!(%error, "text that has run cannot be given back"),
        }
        sleep(PAUSE).await;
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been told on standard error.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_resolver_that_hangs_does_not_hold_up_the_end() {
        let background = Background::start().unwrap();
        let (answer, hangs) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        background.handle().spawn_blocking(move || {
            begun.send(()).unwrap();
            hangs.recv()
        });
        begins.recv().unwrap();
        let (ended, ends) = mpsc::channel();
        thread::spawn(move || {
            drop(background);
            ended.send(())
        });
        assert_eq!(ends.recv_timeout(Duration::from_secs(20)), Ok(()));
        drop(answer);
    }
}
