//! The HTTP/1.1 engine without sockets: bytes in, in the pieces that a test wants them to come in, and what
//! it made of them.
//!
//! ```text
//! bytes ─► Pieces ─► h1::serve ─► Meaning of each request ─► h1::Client ─► the bytes that a backend gets
//! bytes ─► Pieces ─► h1::Client ─► Answered
//! ```

pub mod corpus;
pub mod frames;
mod pieces;
pub mod properties;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Method, StatusCode};
use portway_proxy::drain::Drain;
use portway_proxy::fault::Fault;
use portway_proxy::http::h1::{self, Client, Recycle, SendOptions, Settings};
use portway_proxy::http::{
    Authority, Body, BodySource, Connection, Frame, Handler, Headers, Request, RequestHead, Response, Scheme,
    Target, Version,
};

pub use pieces::Pieces;

/// A field section: names and values, in order.
pub type Pairs = Vec<(String, String)>;

/// A request as its handler understands it. Bytes above 0x7F in fields are as in Latin-1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// The method.
    pub method: String,
    /// The authority as it came.
    pub authority: String,
    /// The target, normalised.
    pub target: String,
    /// The fields that are not the engine's own.
    pub fields: Pairs,
    /// The protocol that is asked for.
    pub upgrade: Option<String>,
    /// The body, as far as it came.
    pub body: Vec<u8>,
    /// The trailer fields.
    pub trailers: Pairs,
    /// Why the body has no end.
    pub fault: Option<&'static str>,
}

/// A response as whoever asked understands it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The fields that are not the engine's own.
    pub fields: Pairs,
    /// The body, as far as it came.
    pub body: Vec<u8>,
    /// The trailer fields.
    pub trailers: Pairs,
    /// Why the body has no end.
    pub fault: Option<&'static str>,
}

/// What became of a client's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The requests that a handler saw.
    pub seen: Vec<Meaning>,
    /// What the client got.
    pub answered: String,
    /// For each request, the bytes that a backend got.
    pub sent: Vec<Vec<u8>>,
}

/// What became of a backend's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The answer; or why there is none.
    pub answer: Result<Answered, &'static str>,
    /// The connection may carry another request.
    pub reusable: bool,
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// The fields as text.
pub fn pairs(headers: &Headers) -> Pairs {
    headers.iter().map(|(name, value)| (latin1(name), latin1(value))).collect()
}

/// All of a body: data, trailers, and why it has no end.
pub async fn drained(body: &mut Body) -> (Vec<u8>, Pairs, Option<&'static str>) {
    let (mut data, mut trailers) = (Vec::new(), Pairs::new());
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(Frame::Data(piece)) => {
                assert!(!piece.is_empty(), "a piece of nothing");
                data.extend_from_slice(&piece);
            }
            Ok(Frame::Trailers(fields)) => trailers = pairs(&fields),
            Err(fault) => return (data, trailers, Some(fault.kind.reason())),
        }
    }
    (data, trailers, None)
}

impl Meaning {
    /// Of a request, whose body is read to its end.
    pub async fn of(mut request: Request) -> Self {
        let meaning = Self::of_head(&request);
        let (body, trailers, fault) = drained(&mut request.body).await;
        Self { body, trailers, fault, ..meaning }
    }

    fn of_head(request: &Request) -> Self {
        let head = &request.head;
        Self {
            method: head.method.to_string(),
            authority: head.authority.as_str().to_owned(),
            target: head.target.as_str().to_owned(),
            fields: pairs(&head.headers),
            upgrade: request.upgrade.as_deref().map(latin1),
            ..Self::default()
        }
    }
}

/// Answers with a closure.
pub struct Answering<F>(pub F);

impl<F, T> Handler for Answering<F>
where
    F: Fn(Request) -> T,
    T: Future<Output = Response>,
{
    fn handle(&self, request: Request) -> impl Future<Output = Response> {
        (self.0)(request)
    }
}

/// A plain-text connection over loopback.
pub fn connection() -> Rc<Connection> {
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], 80));
    Rc::new(Connection::new(local, local, 80))
}

/// Serves a connection that these bytes come over, until it ends; what the client got.
pub async fn serve_with(handler: &impl Handler, pieces: Vec<Bytes>, settings: &Settings) -> Vec<u8> {
    let output: Rc<RefCell<Vec<u8>>> = Rc::default();
    serve_on(Pieces::new(pieces, output.clone()), handler, settings).await;
    output.take()
}

async fn serve_on(io: Pieces, handler: &impl Handler, settings: &Settings) {
    h1::serve(io, Bytes::new(), connection(), handler, settings, Drain::default().watch()).await;
}

/// Serves a connection that these bytes come over; each request is sent on to a backend.
pub async fn serve(pieces: Vec<Bytes>) -> Served {
    let story: Rc<Story> = Rc::default();
    let handler = Answering(|request| forward(request, story.clone()));
    let output: Rc<RefCell<Vec<u8>>> = Rc::default();
    let io = Pieces::new(pieces, output.clone()).staying(story.clone());
    serve_on(io, &handler, &Settings::default()).await;
    let answered = without_date(&latin1(&output.take()));
    Served { seen: story.seen.take(), answered, sent: story.sent.take() }
}

/// The second can change between two runs.
fn without_date(answered: &str) -> String {
    answered.split_inclusive("\r\n").filter(|line| !line.starts_with("date: ")).collect()
}

/// What becomes of the requests of one connection.
#[derive(Default)]
struct Story {
    seen: RefCell<Vec<Meaning>>,
    sent: RefCell<Vec<Vec<u8>>>,
    /// A request has come whole, and waits for its answer: a client that goes away now gives it up.
    waits: Cell<bool>,
}

/// Sends a request on, and answers 200 or 400.
async fn forward(request: Request, story: Rc<Story>) -> Response {
    let meaning = Meaning::of_head(&request);
    let passing = Rc::new(Passing { meaning: RefCell::new(meaning), story: story.clone() });
    let output: Rc<RefCell<Vec<u8>>> = Rc::default();
    let answer = Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let io = Pieces::new(vec![answer], output.clone()).after(story.clone());
    let body = match request.body {
        Body::Stream(inner) => Body::Stream(Box::new(Passes { inner, passing: passing.clone() })),
        Body::Full(data) => {
            passing.meaning.borrow_mut().body = data.to_vec();
            story.waits.set(true);
            Body::Full(data)
        }
        Body::Empty => {
            story.waits.set(true);
            Body::Empty
        }
    };
    let options = SendOptions {
        expects_continue: false,
        upgrade: request.upgrade,
        informational: None,
        read_limit: usize::MAX,
        recycle: None::<Rc<dyn Recycle<Pieces>>>,
    };
    let result = Client::new(io).send(&request.head, body, options).await;
    story.waits.set(false);
    let meaning = passing.meaning.take();
    let status = match (&result, meaning.fault) {
        (Ok(_), None) => StatusCode::OK,
        (Err(_), Some(_)) => StatusCode::BAD_REQUEST,
        (Ok(_), Some(fault)) => panic!("sent on although its body failed: {fault}, {meaning:?}"),
        (Err(error), None) => panic!("not sent on: {:?}, {meaning:?}", error.fault),
    };
    story.seen.borrow_mut().push(meaning);
    story.sent.borrow_mut().push(output.take());
    Response::new(status, Body::Empty)
}

/// What passes of a request.
struct Passing {
    meaning: RefCell<Meaning>,
    story: Rc<Story>,
}

/// A body on its way through.
struct Passes {
    inner: Box<dyn BodySource>,
    passing: Rc<Passing>,
}

impl BodySource for Passes {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        let polled = self.inner.poll_frame(cx);
        let mut meaning = self.passing.meaning.borrow_mut();
        let waits = &self.passing.story.waits;
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                meaning.body.extend_from_slice(data);
                waits.set(self.inner.remaining() == Some(0));
            }
            Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                meaning.trailers = pairs(trailers);
                waits.set(true);
            }
            Poll::Ready(Some(Err(fault))) => meaning.fault = Some(fault.kind.reason()),
            Poll::Ready(None) => waits.set(true),
        }
        drop(meaning);
        polled
    }

    fn remaining(&self) -> Option<u64> {
        self.inner.remaining()
    }
}

/// Keeps the connection that comes back.
#[derive(Default)]
struct Kept(RefCell<Option<Client<Pieces>>>);

impl Recycle<Pieces> for Kept {
    fn recycle(&self, client: Client<Pieces>) {
        self.0.replace(Some(client));
    }
}

/// The head of a request for `/`.
pub fn head(method: Method) -> RequestHead {
    RequestHead {
        method,
        scheme: Scheme::Http,
        authority: Authority::parse(Bytes::from_static(b"a")).unwrap_or_else(|_| unreachable!("it is one")),
        target: Target::new(Bytes::from_static(b"/")),
        version: Version::Http11,
        headers: Headers::default(),
    }
}

/// Sends a request for `/`, to which these bytes come as the answer.
pub async fn fetch(pieces: Vec<Bytes>, method: Method) -> Fetched {
    let kept = Rc::new(Kept::default());
    let answer = match ask(pieces, method, kept.clone()).await {
        Err(reason) => Err(reason),
        Ok(mut response) => {
            let (body, trailers, fault) = drained(&mut response.body).await;
            let fields = pairs(&response.head.headers);
            Ok(Answered { status: response.head.status.as_u16(), fields, body, trailers, fault })
        }
    };
    // What is left in the connection makes a pool drop it.
    let reusable = kept.0.take().is_some_and(|client| client.io().is_exhausted());
    Fetched { answer, reusable }
}

/// The response to a request for `/`.
async fn ask(pieces: Vec<Bytes>, method: Method, kept: Rc<Kept>) -> Result<Response, &'static str> {
    let io = Pieces::new(pieces, Rc::default());
    let recycle = Some(kept as Rc<dyn Recycle<Pieces>>);
    let options = SendOptions {
        expects_continue: false,
        upgrade: None,
        informational: None,
        read_limit: usize::MAX,
        recycle,
    };
    match Client::new(io).send(&head(method), Body::Empty, options).await {
        Ok(answer) => Ok(Response { head: answer.head, body: answer.body, tunnel: None, exchange: None }),
        Err(error) => Err(error.fault.kind.reason()),
    }
}

/// Serves one request for `/` from a backend that answers with these bytes; what the client gets.
pub async fn relay(pieces: Vec<Bytes>) -> Vec<u8> {
    let handler = Answering(|request: Request| {
        let pieces = pieces.clone();
        async move {
            let response = ask(pieces, request.head.method, Rc::default()).await;
            response.unwrap_or_else(|_| Response::new(StatusCode::BAD_GATEWAY, Body::Empty))
        }
    });
    let request = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let output: Rc<RefCell<Vec<u8>>> = Rc::default();
    serve_on(Pieces::new(vec![request], output.clone()).open(), &handler, &Settings::default()).await;
    output.take()
}
