//! Being told to end.

use tokio::signal::unix::{SignalKind, signal};

/// Completes at SIGTERM or SIGINT.
///
/// # Errors
/// Where the operating system refuses the handlers.
pub(crate) async fn ended() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Ends the process without waiting for anything.
pub(crate) fn end_now() {
    #[allow(
        clippy::disallowed_methods,
        reason = "the user has asked twice; the drain is what is to be skipped"
    )]
    std::process::exit(130);
}
