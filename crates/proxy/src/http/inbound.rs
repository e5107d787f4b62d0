//! A request's body on its way to several readers: the tries of the request, one after the other, and its
//! mirrors, which only look on.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};

use super::{Body, BodySource, Frame};
use crate::fault::{Fault, FaultKind};
use crate::observe::Received;
use crate::upstream::{HeldBack, Lease};

/// A request's body.
pub(crate) enum Inbound {
    /// All of it is here; can be sent any number of times.
    Whole(Bytes),
    /// It comes from the client.
    Stream(Rc<RefCell<Reader>>),
}

/// Reads the client's body, for whichever try is under way.
pub(crate) struct Reader {
    body: Body,
    /// How it ended.
    ended: Option<Ending>,
    /// What has been read, while that is little enough to be sent again.
    kept: Option<Vec<Frame>>,
    kept_bytes: usize,
    keep_limit: usize,
    /// Something has been pulled.
    begun: bool,
    /// Bytes that have been pulled. Shared, as they come for as long as the exchange lasts.
    received: Rc<Cell<u64>>,
    taps: Vec<Rc<RefCell<Tap>>>,
    /// Whose progress it is.
    lease: Weak<Lease>,
    /// What is kept of a body that was read ahead counts here.
    held: Option<HeldBack>,
}

#[derive(Clone, Copy)]
enum Ending {
    Clean,
    Failed(FaultKind),
}

impl Inbound {
    /// Takes a body over. Up to `keep_limit` bytes are kept so that they can be sent again; 0 keeps none.
    pub(crate) fn new(body: Body, keep_limit: usize) -> Self {
        match body {
            Body::Empty => Self::Whole(Bytes::new()),
            Body::Full(bytes) => Self::Whole(bytes),
            body => Self::Stream(Rc::new(RefCell::new(Reader {
                body,
                ended: None,
                kept: (keep_limit > 0).then(Vec::new),
                kept_bytes: 0,
                keep_limit,
                begun: false,
                received: Rc::default(),
                taps: Vec::new(),
                lease: Weak::new(),
                held: None,
            }))),
        }
    }

    /// Up to `limit` bytes are kept from now on; 0 keeps none. Does nothing once it has been read from.
    pub(crate) fn keep(&self, limit: usize) {
        if let Self::Stream(reader) = self {
            let mut reader = reader.borrow_mut();
            if !reader.begun && limit > 0 {
                (reader.keep_limit, reader.kept) = (limit, Some(Vec::new()));
            }
        }
    }

    /// Reads the whole body before the first try, which sends what was read.
    ///
    /// # Errors
    /// [`FaultKind::BodyTooLarge`] when it is longer than `limit`, as soon as that is known;
    /// [`FaultKind::Overloaded`] when there is no room; and whatever befalls the client.
    pub(crate) async fn read_ahead(&self, limit: usize, room: HeldBack) -> Result<Bytes, Fault> {
        let reader = match self {
            Self::Whole(bytes) if bytes.len() <= limit => return Ok(bytes.clone()),
            Self::Whole(_) => return Err(FaultKind::BodyTooLarge.into()),
            Self::Stream(reader) => reader,
        };
        if reader.borrow().ended.is_none() {
            Self::hold(reader, limit, room).await?;
        }
        let reader = reader.borrow();
        let mut whole = reader.kept.iter().flatten().filter_map(|frame| match frame {
            Frame::Data(data) => Some(data),
            Frame::Trailers(_) => None,
        });
        let whole = whole.next().cloned().unwrap_or_default();
        if whole.len() > limit { Err(FaultKind::BodyTooLarge.into()) } else { Ok(whole) }
    }

    async fn hold(reader: &RefCell<Reader>, limit: usize, mut room: HeldBack) -> Result<(), Fault> {
        if reader.borrow().body.remaining().is_some_and(|length| length > limit as u64) {
            return Err(FaultKind::BodyTooLarge.into());
        }
        let mut whole = BytesMut::new();
        let mut kept = Vec::new();
        loop {
            match poll_fn(|cx| reader.borrow_mut().poll_frame(cx)).await.transpose()? {
                None => break,
                Some(Frame::Data(data)) if whole.len() + data.len() > limit => {
                    return Err(FaultKind::BodyTooLarge.into());
                }
                Some(Frame::Data(data)) => {
                    room.grow(data.len())?;
                    whole.extend_from_slice(&data);
                }
                Some(trailers @ Frame::Trailers(_)) => kept.push(trailers),
            }
        }
        if !whole.is_empty() {
            kept.insert(0, Frame::Data(whole.freeze()));
        }
        let mut reader = reader.borrow_mut();
        (reader.kept, reader.held) = (Some(kept), Some(room));
        Ok(())
    }

    /// The body for a try, from its begin. Ends the body of the try before.
    pub(crate) fn attempt(&self, lease: &Rc<Lease>) -> Body {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Body::Empty,
            Self::Whole(bytes) => Body::Full(bytes.clone()),
            Self::Stream(reader) => {
                reader.borrow_mut().lease = Rc::downgrade(lease);
                Body::Stream(Box::new(Attempt { reader: reader.clone(), next: 0 }))
            }
        }
    }

    /// Whether a further try can send all of it.
    pub(crate) fn can_replay(&self) -> bool {
        match self {
            Self::Whole(_) => true,
            Self::Stream(reader) => {
                let reader = reader.borrow();
                !reader.begun || reader.kept.is_some()
            }
        }
    }

    /// There will be no further try: what is kept goes with the next piece.
    pub(crate) fn settle(&self) {
        if let Self::Stream(reader) = self {
            reader.borrow_mut().keep_limit = 0;
        }
    }

    /// How long it is, before anything has been read of it; `None` where that is not known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Whole(bytes) => Some(bytes.len() as u64),
            Self::Stream(reader) => reader.borrow().body.remaining(),
        }
    }

    /// Whether the client has begun to send it: it waits for no `100 Continue` any more.
    pub(crate) fn has_begun(&self) -> bool {
        match self {
            Self::Whole(_) => false,
            Self::Stream(reader) => reader.borrow().begun,
        }
    }

    /// Bytes read from the client.
    pub(crate) fn received(&self) -> Received {
        match self {
            Self::Whole(bytes) => Received::Whole(bytes.len() as u64),
            Self::Stream(reader) => Received::SoFar(reader.borrow().received.clone()),
        }
    }

    /// A copy of the body for an onlooker, which is cut when it lags behind by more than `lag` bytes.
    /// Before the first try.
    pub(crate) fn tap(&self, lag: usize) -> Body {
        match self {
            Self::Whole(bytes) if bytes.is_empty() => Body::Empty,
            Self::Whole(bytes) => Body::Full(bytes.clone()),
            Self::Stream(reader) => {
                let mut reader = reader.borrow_mut();
                let tap = Rc::new(RefCell::new(Tap {
                    frames: VecDeque::new(),
                    bytes: 0,
                    lag,
                    remaining: reader.body.remaining(),
                    ended: None,
                    waker: None,
                    gone: false,
                }));
                reader.taps.push(tap.clone());
                Body::Stream(Box::new(TapBody(tap)))
            }
        }
    }
}

fn copy(frame: &Frame) -> Frame {
    match frame {
        Frame::Data(data) => Frame::Data(data.clone()),
        Frame::Trailers(trailers) => Frame::Trailers(trailers.clone()),
    }
}

/// What keeping a piece takes. More than its bytes, lest a body of tiny pieces is kept at many times its size.
fn cost(frame: &Frame) -> usize {
    64 + match frame {
        Frame::Data(data) => data.len(),
        Frame::Trailers(trailers) => trailers.wire_len(),
    }
}

impl Reader {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        match self.ended {
            Some(Ending::Clean) => return Poll::Ready(None),
            Some(Ending::Failed(kind)) => return Poll::Ready(Some(Err(kind.into()))),
            None => {}
        }
        let frame = ready!(self.body.poll_frame(cx));
        self.begun = true;
        if let Some(lease) = self.lease.upgrade() {
            lease.touch();
        }
        match &frame {
            Some(Ok(frame)) => {
                if let Frame::Data(data) = frame {
                    self.received.set(self.received.get() + data.len() as u64);
                }
                self.taps.retain(|tap| tap.borrow_mut().push(frame));
                self.kept_bytes = self.kept_bytes.saturating_add(cost(frame));
                if self.kept_bytes > self.keep_limit {
                    self.kept = None;
                } else if let Some(kept) = &mut self.kept {
                    kept.push(copy(frame));
                }
            }
            Some(Err(fault)) => self.end(Ending::Failed(fault.kind)),
            None => self.end(Ending::Clean),
        }
        Poll::Ready(frame)
    }

    fn end(&mut self, ending: Ending) {
        self.ended = Some(ending);
        self.taps.drain(..).for_each(|tap| tap.borrow_mut().end(ending));
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.taps.drain(..).for_each(|tap| tap.borrow_mut().end(Ending::Failed(FaultKind::ClientGone)));
    }
}

/// The body as one try sees it: what is kept, then what comes.
struct Attempt {
    reader: Rc<RefCell<Reader>>,
    next: usize,
}

impl BodySource for Attempt {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let mut reader = self.reader.borrow_mut();
        if let Some(frame) = reader.kept.as_ref().and_then(|kept| kept.get(self.next)) {
            self.next += 1;
            return Poll::Ready(Some(Ok(copy(frame))));
        }
        let frame = ready!(reader.poll_frame(cx));
        self.next += 1;
        Poll::Ready(frame)
    }

    fn remaining(&self) -> Option<u64> {
        let reader = self.reader.borrow();
        let kept = reader.kept.iter().flatten().skip(self.next);
        if kept.clone().any(|frame| matches!(frame, Frame::Trailers(_))) {
            // A body of known length is not asked for its trailers over HTTP/1.1.
            return None;
        }
        let kept: u64 =
            kept.map(|frame| if let Frame::Data(data) = frame { data.len() as u64 } else { 0 }).sum();
        if reader.ended.is_some() {
            return Some(kept);
        }
        Some(reader.body.remaining()? + kept)
    }
}

/// A copy of a body, as far as its onlooker has not read it.
struct Tap {
    frames: VecDeque<Frame>,
    bytes: usize,
    lag: usize,
    remaining: Option<u64>,
    ended: Option<Ending>,
    waker: Option<Waker>,
    gone: bool,
}

impl Tap {
    /// Says whether the onlooker is still there.
    fn push(&mut self, frame: &Frame) -> bool {
        if self.gone {
            return false;
        }
        self.bytes += cost(frame);
        if self.bytes > self.lag {
            self.frames.clear();
            self.end(Ending::Failed(FaultKind::Overloaded));
            return false;
        }
        self.frames.push_back(copy(frame));
        self.wake();
        true
    }

    fn end(&mut self, ending: Ending) {
        self.ended = Some(ending);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

struct TapBody(Rc<RefCell<Tap>>);

impl BodySource for TapBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let mut tap = self.0.borrow_mut();
        if let Some(frame) = tap.frames.pop_front() {
            tap.bytes -= cost(&frame);
            if let Frame::Data(data) = &frame {
                tap.remaining = tap.remaining.map(|left| left.saturating_sub(data.len() as u64));
            }
            return Poll::Ready(Some(Ok(frame)));
        }
        match tap.ended {
            Some(Ending::Clean) => Poll::Ready(None),
            // A body of known length is not asked for its end by who sends it on over HTTP/1.1.
            _ if tap.remaining == Some(0) => Poll::Ready(None),
            Some(Ending::Failed(kind)) => Poll::Ready(Some(Err(kind.into()))),
            None => {
                tap.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn remaining(&self) -> Option<u64> {
        self.0.borrow().remaining
    }
}

impl Drop for TapBody {
    fn drop(&mut self) {
        let mut tap = self.0.borrow_mut();
        tap.gone = true;
        tap.frames.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// A body of frames that are there at once.
    struct Script(VecDeque<Frame>, Option<u64>);

    impl BodySource for Script {
        fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }

        fn remaining(&self) -> Option<u64> {
            self.1
        }
    }

    fn script(pieces: &[&'static str]) -> Body {
        let frames = pieces.iter().map(|p| Frame::Data(Bytes::from_static(p.as_bytes()))).collect();
        Body::Stream(Box::new(Script(frames, None)))
    }

    fn pull(body: &mut Body) -> Poll<Option<Result<Frame, Fault>>> {
        body.poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn text(body: &mut Body) -> String {
        match pull(body) {
            Poll::Ready(Some(Ok(Frame::Data(data)))) => String::from_utf8_lossy(&data).into(),
            Poll::Ready(Some(Err(fault))) => format!("!{}", fault.kind.reason()),
            Poll::Ready(None) => "end".into(),
            Poll::Pending => "pending".into(),
            other => format!("{other:?}"),
        }
    }

    fn attempt(inbound: &Inbound) -> Body {
        let Inbound::Stream(reader) = inbound else { panic!("a stream") };
        Body::Stream(Box::new(Attempt { reader: reader.clone(), next: 0 }))
    }

    #[test]
    fn a_second_try_begins_where_the_body_began() {
        let inbound = Inbound::new(script(&["ab", "cd", "ef"]), 1024);
        let mut first = attempt(&inbound);
        assert_eq!([text(&mut first), text(&mut first)], ["ab", "cd"]);
        drop(first);
        assert!(inbound.can_replay());
        let mut second = attempt(&inbound);
        let seen: Vec<_> = (0..4).map(|_| text(&mut second)).collect();
        assert_eq!(seen, ["ab", "cd", "ef", "end"]);
        assert_eq!(inbound.received().get(), 6);
    }

    #[test]
    fn what_is_too_long_is_not_kept() {
        let inbound = Inbound::new(script(&["ab", "cd"]), 100);
        let mut first = attempt(&inbound);
        assert_eq!(text(&mut first), "ab");
        assert!(inbound.can_replay());
        assert_eq!(text(&mut first), "cd");
        assert!(!inbound.can_replay());
        assert_eq!(text(&mut first), "end");
    }

    #[test]
    fn an_untouched_body_can_be_sent_again_even_if_none_is_kept() {
        let inbound = Inbound::new(script(&["ab"]), 0);
        assert!(inbound.can_replay());
        let mut first = attempt(&inbound);
        assert_eq!(text(&mut first), "ab");
        assert!(!inbound.can_replay());
    }

    #[test]
    fn nothing_is_kept_once_settled() {
        let inbound = Inbound::new(script(&["ab", "cd"]), 1024);
        let mut first = attempt(&inbound);
        assert_eq!(text(&mut first), "ab");
        inbound.settle();
        assert_eq!(text(&mut first), "cd");
        assert!(!inbound.can_replay());
    }

    #[test]
    fn an_onlooker_sees_the_same_once_even_with_two_tries() {
        let inbound = Inbound::new(script(&["ab", "cd"]), 1024);
        let mut tap = inbound.tap(1024);
        assert_eq!(text(&mut tap), "pending");
        let mut first = attempt(&inbound);
        assert_eq!(text(&mut first), "ab");
        drop(first);
        let mut second = attempt(&inbound);
        while text(&mut second) != "end" {}
        let seen: Vec<_> = (0..3).map(|_| text(&mut tap)).collect();
        assert_eq!(seen, ["ab", "cd", "end"]);
    }

    #[test]
    fn an_onlooker_that_lags_is_cut() {
        let inbound = Inbound::new(script(&["ab", "cd", "ef"]), 0);
        let mut tap = inbound.tap(100);
        let mut first = attempt(&inbound);
        while text(&mut first) != "end" {}
        assert_eq!(text(&mut tap), "!overloaded");
    }

    #[test]
    fn an_onlooker_is_cut_when_the_body_is_given_up() {
        let inbound = Inbound::new(script(&["ab", "cd"]), 0);
        let mut tap = inbound.tap(1024);
        let mut first = attempt(&inbound);
        assert_eq!(text(&mut first), "ab");
        drop((first, inbound));
        assert_eq!([text(&mut tap), text(&mut tap)], ["ab", "!client_gone"]);
    }

    #[test]
    fn an_onlooker_knows_the_end_of_a_body_of_known_length() {
        let frames = VecDeque::from([Frame::Data(Bytes::from_static(b"abc"))]);
        let inbound = Inbound::new(Body::Stream(Box::new(Script(frames, Some(3)))), 0);
        let mut tap = inbound.tap(1024);
        assert_eq!(text(&mut attempt(&inbound)), "abc");
        drop(inbound);
        assert_eq!([text(&mut tap), text(&mut tap)], ["abc", "end"]);
    }

    #[test]
    fn the_length_left_counts_what_is_kept() {
        let frames = VecDeque::from([Frame::Data(Bytes::from_static(b"abc"))]);
        let inbound = Inbound::new(Body::Stream(Box::new(Script(frames, Some(0)))), 1024);
        let mut first = attempt(&inbound);
        assert_eq!(text(&mut first), "abc");
        assert_eq!(attempt(&inbound).remaining(), Some(3));
    }
}
