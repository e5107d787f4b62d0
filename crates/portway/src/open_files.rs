//! The process's limit on open files.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Some systems have a hard limit of a billion. More than this is never needed.
const ENOUGH: u64 = 1 << 20;

/// Raises the limit to what the process may have. Shells and systemd give 1,024 (the soft limit) for the sake
/// of programs that use `select`, and many times that (the hard limit) to whoever asks: each connection of a
/// client needs a file, and one more to a backend.
pub(crate) fn allow_all() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.min(ENOUGH);
        if soft >= wanted { Ok(()) } else { setrlimit(Resource::RLIMIT_NOFILE, wanted, hard) }
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}
