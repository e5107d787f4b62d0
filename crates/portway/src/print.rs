//! What the commands print. `print!` panics where standard output cannot be written.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write as _};

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

/// Prints what is new in a process that serves. It serves on where nobody can read that.
pub(crate) fn news(text: impl Display) {
    let mut out = io::stdout().lock();
    let _ = write!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a line to standard error, if that can be written.
pub(crate) fn complaint(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
