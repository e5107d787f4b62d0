//! From workers to the thread that writes: lines and spans gather at a worker and go in one piece.

use std::cell::RefCell;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::Notify;

use super::lines::Lines;
use super::trace::Traced;

/// How long lines and spans gather before they go. Who sends to a thread that waits has to wake it, which
/// costs more than all else that is recorded of a request.
const GATHER: Duration = Duration::from_millis(5);
/// They go at once when there are so many bytes of lines,
const ENOUGH: usize = 60 * 1024;
/// or so many spans.
const ENOUGH_SPANS: usize = 256;
/// When the thread does not keep up, lines are dropped once so many bytes of them wait at their worker,
const MOST: usize = 1024 * 1024;
/// and spans once there are so many.
const MOST_SPANS: usize = 4096;
/// How many pieces of each worker may wait for the thread.
const WAITING: usize = 2;

/// A worker's lines and spans.
#[derive(Debug)]
pub(super) struct Journal {
    gathered: RefCell<Gathered>,
    begun: Notify,
    out: SyncSender<Batch>,
}

#[derive(Debug)]
struct Gathered {
    /// How lines look; none where only traces are wanted.
    lines: Option<Lines>,
    batch: Batch,
}

/// What goes to the thread in one piece.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Whole lines.
    pub(super) lines: Vec<u8>,
    /// Exchanges whose spans are to be exported.
    pub(super) traced: Vec<Traced>,
    /// How many things these are.
    count: u64,
}

/// The way to the thread, for that many workers.
pub(super) fn channel(workers: usize) -> (SyncSender<Batch>, Receiver<Batch>) {
    sync_channel(workers * WAITING)
}

impl Journal {
    pub(super) fn new(lines: Option<Lines>, out: SyncSender<Batch>) -> Self {
        let gathered = RefCell::new(Gathered { lines, batch: Batch::default() });
        Self { gathered, begun: Notify::new(), out }
    }

    /// Whether lines are wanted.
    pub(super) fn has_lines(&self) -> bool {
        self.gathered.borrow().lines.is_some()
    }

    /// What the format makes, if lines are wanted.
    pub(super) fn begin<T>(&self, begin: impl FnOnce(&mut Lines) -> T) -> Option<T> {
        self.gathered.borrow_mut().lines.as_mut().map(begin)
    }

    /// Adds a line, if lines are wanted. Never waits. Says how many lines were lost.
    pub(super) fn line(&self, write: impl FnOnce(&mut Lines, &mut Vec<u8>)) -> u64 {
        let mut gathered = self.gathered.borrow_mut();
        let Gathered { lines: Some(lines), batch } = &mut *gathered else { return 0 };
        if batch.lines.len() >= MOST {
            return 1;
        }
        write(lines, &mut batch.lines);
        self.added(batch)
    }

    /// Adds an exchange whose spans are to be exported. Never waits. Says how much was lost.
    pub(super) fn span(&self, traced: Traced) -> u64 {
        let batch = &mut self.gathered.borrow_mut().batch;
        if batch.traced.len() >= MOST_SPANS {
            return 1;
        }
        batch.traced.push(traced);
        self.added(batch)
    }

    fn added(&self, batch: &mut Batch) -> u64 {
        batch.count += 1;
        if batch.count == 1 {
            self.begun.notify_one();
        }
        if batch.lines.len() >= ENOUGH || batch.traced.len() >= ENOUGH_SPANS { self.send(batch) } else { 0 }
    }

    /// Sends what has gathered on, unless the thread has too much; says how much was lost.
    fn send(&self, batch: &mut Batch) -> u64 {
        if batch.count == 0 {
            return 0;
        }
        // The next one will be about as long.
        let next =
            Batch { lines: Vec::with_capacity(batch.lines.len().min(ENOUGH) * 9 / 8), ..Batch::default() };
        match self.out.try_send(std::mem::replace(batch, next)) {
            Ok(()) => 0,
            Err(TrySendError::Full(kept)) => {
                *batch = kept;
                0
            }
            Err(TrySendError::Disconnected(lost)) => lost.count,
        }
    }

    /// Sends what gathers on, for as long as it is polled. `lost` is told how much was lost.
    pub(super) async fn deliver(&self, lost: impl Fn(u64)) {
        loop {
            if self.gathered.borrow().batch.count == 0 {
                self.begun.notified().await;
            }
            tokio::time::sleep(GATHER).await;
            lost(self.send(&mut self.gathered.borrow_mut().batch));
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let last = std::mem::take(&mut self.gathered.borrow_mut().batch);
        if last.count > 0
            && let Err(TrySendError::Full(last)) = self.out.try_send(last)
        {
            // The worker does not wait for a thread that itself may wait for somebody to take what it writes.
            let out = self.out.clone();
            let _ = std::thread::Builder::new().name("last lines".to_owned()).spawn(move || out.send(last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::AccessLogFormat;

    fn add(journal: &Journal, line: &str) -> u64 {
        journal.line(|_, out| out.extend_from_slice(line.as_bytes()))
    }

    #[tokio::test(start_paused = true)]
    async fn lines_gather_and_go_in_one_piece() {
        let (out, batches) = channel(1);
        let journal = Journal::new(Some(Lines::new(AccessLogFormat::Json)), out);
        let deliver = async { journal.deliver(|_| ()).await };
        let write = async {
            for text in ["a\n", "b\n"] {
                assert_eq!(add(&journal, text), 0);
                tokio::task::yield_now().await;
            }
            assert!(batches.try_recv().is_err(), "a line alone wakes nobody");
            tokio::time::sleep(GATHER * 2).await;
            assert_eq!(batches.try_recv().map(|batch| batch.lines).unwrap(), b"a\nb\n");
            assert_eq!(add(&journal, "c\n"), 0);
        };
        tokio::select! {
            () = deliver => {}
            () = write => {}
        }
        drop(journal);
        assert_eq!(batches.try_recv().map(|batch| batch.lines).unwrap(), b"c\n", "the last go at the end");
    }

    #[test]
    fn what_the_thread_does_not_take_is_bounded_and_counted() {
        let (out, batches) = channel(1);
        let journal = Journal::new(Some(Lines::new(AccessLogFormat::Json)), out);
        let line = format!("{}\n", "x".repeat(1023));
        let lost: u64 = (0..10_000).map(|_| add(&journal, &line)).sum();
        let reader = std::thread::spawn(move || batches.iter().map(|batch| batch.lines.len()).sum::<usize>());
        drop(journal);
        let kept = reader.join().unwrap();
        assert_eq!(kept % line.len(), 0, "whole lines");
        assert_eq!((kept / line.len()) as u64 + lost, 10_000);
        assert!(kept <= MOST + 2 * WAITING * ENOUGH, "{kept}");
    }
}
