//! A port on one worker: what its connections have in common.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::drain::{Drain, DrainWatch};
use crate::l4::Live;
use crate::snapshot::{PortKey, Speaks};

/// A port and the connections that came over it. When the port goes, or begins to speak something else, its
/// connections keep this one while they drain.
pub(super) struct PortState {
    pub(super) key: PortKey,
    pub(super) speaks: Speaks,
    /// Those of its connections that are passed on.
    pub(super) live: Live,
    pub(super) drain: Drain,
    /// Begins at the end of the drain.
    cut: Drain,
    accepting: RefCell<Option<Accepting>>,
}

/// A running accept loop.
pub(super) struct Accepting {
    pub(super) stop: Rc<Notify>,
    pub(super) task: JoinHandle<()>,
}

impl PortState {
    pub(super) fn new(key: PortKey, speaks: Speaks) -> Rc<Self> {
        Rc::new(Self {
            key,
            speaks,
            live: Live::default(),
            drain: Drain::default(),
            cut: Drain::default(),
            accepting: RefCell::default(),
        })
    }

    /// Lets the connections end: idle ones now, busy ones after their exchange, all at the deadline. Again:
    /// a new deadline.
    pub(super) fn leave(self: &Rc<Self>, deadline: Instant) {
        self.drain.begin(deadline);
        let port = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(deadline).await;
            if port.drain.deadline() == Some(deadline) {
                port.cut.begin(deadline);
            }
        });
    }

    /// Ready at the end of the drain, when connections that are still there are to end.
    pub(super) fn cut(&self) -> DrainWatch {
        self.cut.watch()
    }

    pub(super) fn set_accepting(&self, accepting: Accepting) {
        self.accepting.replace(Some(accepting));
    }

    /// Hands the accept loop on to the port's next state.
    pub(super) fn take_accepting(&self) -> Option<Accepting> {
        self.accepting.take()
    }

    /// Accepts nothing any more. What the kernel has already accepted is still taken.
    pub(super) async fn stop_accepting(&self) {
        if let Some(Accepting { stop, task }) = self.take_accepting() {
            stop.notify_one();
            // It ends by itself; a panic in it was counted there.
            let _ = task.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connections_are_cut_at_the_deadline_that_was_told_last() {
        let test = async {
            let transport = portway_plan::Transport::Tcp;
            for (first, last) in [(10, 30), (30, 10)] {
                let port = PortState::new(PortKey { address: None, port: 80, transport }, Speaks::Http);
                let began = Instant::now();
                port.leave(began + Duration::from_secs(first));
                port.leave(began + Duration::from_secs(last));
                port.cut().draining().await;
                assert_eq!(began.elapsed().as_secs(), last);
            }
        };
        tokio::task::LocalSet::new().run_until(test).await;
    }
}
