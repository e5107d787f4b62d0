//! What the commands print. `print!` panics where standard output cannot be written.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

/// Prints what was asked for. A reader that has gone away, as `head` does, has read what it wanted.
///
/// # Errors
/// Standard output cannot be written, such as to a full disk.
pub(crate) fn answer(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Prints what is new in a process that serves. It serves on where nobody can read that, and where nobody
/// reads: a terminal that is stopped (Ctrl-S), or a collector of logs that hangs.
pub(crate) fn news(text: impl Display) {
    static OUT: LazyLock<Printer> = LazyLock::new(|| Printer::start(io::stdout));
    OUT.print(text.to_string());
}

/// Standard error for the log. Nobody waits for it, as for [`news`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Log;

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        LOG.print(String::from_utf8_lossy(text).into_owned());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static LOG: LazyLock<Printer> = LazyLock::new(|| Printer::start(io::stderr));

/// Waits until all news and the log are written, or nobody takes them.
pub(crate) fn finish() {
    for printer in PRINTERS.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let (done, written) = mpsc::sync_channel(1);
        if printer.try_send(Message::Finish(done)).is_ok() {
            let _ = written.recv_timeout(FINISH);
        }
    }
}

/// Bytes that wait to be printed; what comes when there are more is left out, and said to be.
const WAITING: usize = 4 << 20;
/// How long the end of the process waits for what is printed.
const FINISH: Duration = Duration::from_secs(1);

static PRINTERS: Mutex<Vec<SyncSender<Message>>> = Mutex::new(Vec::new());

enum Message {
    Text(String),
    Finish(SyncSender<()>),
}

/// The way to a thread that prints.
struct Printer {
    /// None where there could be no thread.
    thread: Option<SyncSender<Message>>,
    waiting: Arc<AtomicUsize>,
    left_out: AtomicUsize,
}

impl Printer {
    fn start<W: io::Write>(out: impl Fn() -> W + Send + 'static) -> Self {
        let (sender, messages) = mpsc::sync_channel(4096);
        let waiting = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&waiting);
        let print = move || {
            for message in messages {
                match message {
                    Message::Text(text) => {
                        let mut out = out();
                        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                        counted.fetch_sub(text.len(), Ordering::Relaxed);
                    }
                    Message::Finish(done) => drop(done.send(())),
                }
            }
        };
        let thread = std::thread::Builder::new().name("print".to_owned()).spawn(print);
        if thread.is_ok() {
            PRINTERS.lock().unwrap_or_else(PoisonError::into_inner).push(sender.clone());
        }
        Self { thread: thread.ok().map(|_| sender), waiting, left_out: AtomicUsize::new(0) }
    }

    fn print(&self, mut text: String) {
        let Some(thread) = &self.thread else { return };
        if text.is_empty() {
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            text.insert_str(0, &format!("({left_out} messages were left out here: nobody took them)\n"));
        }
        let bytes = text.len();
        // A single text may be longer than all that may wait.
        let before = self.waiting.fetch_add(bytes, Ordering::Relaxed);
        let taken = before < WAITING && thread.try_send(Message::Text(text)).is_ok();
        if !taken {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.left_out.fetch_add(left_out + 1, Ordering::Relaxed);
        }
    }
}

/// Prints a line to standard error, if that can be written.
pub(crate) fn complaint(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
