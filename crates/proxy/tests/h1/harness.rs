//! One served connection on loopback, and raw bytes at its other end.

use std::future::Future;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use portway_proxy::drain::Drain;
use portway_proxy::fault::{Fault, FaultKind};
use portway_proxy::http::h1::{self, End, Settings};
use portway_proxy::http::{Body, BodySource, Frame, Handler, Headers};
use portway_testkit::engine::connection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet};

/// Longer than anything here takes; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Runs on one thread, as a worker does.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(
        LocalSet::new()
            .run_until(async { tokio::time::timeout(PATIENCE, test).await.expect("the test hangs") }),
    )
}

/// Runs on a clock that jumps to whatever is due as soon as nothing else can happen.
pub(crate) fn run_paused<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(LocalSet::new().run_until(test))
}

/// Two ends of a TCP connection.
pub(crate) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Serves a connection; what is returned is the client's end.
pub(crate) async fn served<H>(handler: H, settings: Settings, drain: &Drain) -> (TcpStream, JoinHandle<End>)
where
    H: Handler + 'static,
{
    let (client, server) = pair().await;
    let watch = drain.watch();
    let task = tokio::task::spawn_local(async move {
        h1::serve(server, Bytes::new(), connection(), &handler, &settings, watch).await
    });
    (client, task)
}

/// What came until the other side closed; a reset is an end, too.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break,
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("{error}"),
        }
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads until what came ends with the text.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    while !all.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let count = stream.read(&mut byte).await.unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&byte);
    }
    String::from_utf8(all).unwrap()
}

pub(crate) async fn write(stream: &mut TcpStream, text: impl AsRef<[u8]>) {
    stream.write_all(text.as_ref()).await.unwrap();
}

/// All of a body, with its trailers behind it as they would be on the wire.
pub(crate) async fn collect(mut body: Body) -> Result<Vec<u8>, Fault> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame? {
            Frame::Data(data) => all.extend_from_slice(&data),
            Frame::Trailers(trailers) => {
                for (name, value) in trailers.iter() {
                    all.extend_from_slice(&[name, b"=", value, b";"].concat());
                }
            }
        }
    }
    Ok(all)
}

/// A body that is fed piece by piece, and ends when the sender is dropped.
pub(crate) fn channel() -> (Feed, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    (Feed(sender), Body::Stream(Box::new(Fed(receiver))))
}

/// Feeds a body.
pub(crate) struct Feed(tokio::sync::mpsc::Sender<Result<Frame, Fault>>);

struct Fed(tokio::sync::mpsc::Receiver<Result<Frame, Fault>>);

impl Feed {
    pub(crate) async fn send(&self, data: &'static str) {
        self.bytes(Bytes::from_static(data.as_bytes())).await;
    }

    pub(crate) async fn bytes(&self, data: Bytes) {
        self.frame(Ok(Frame::Data(data))).await;
    }

    pub(crate) async fn trailers(&self, trailers: Headers) {
        self.frame(Ok(Frame::Trailers(Box::new(trailers)))).await;
    }

    pub(crate) async fn fail(&self, kind: FaultKind) {
        self.frame(Err(kind.into())).await;
    }

    async fn frame(&self, frame: Result<Frame, Fault>) {
        self.0.send(frame).await.unwrap_or_else(|_| panic!("nobody pulls the body"));
    }
}

impl BodySource for Fed {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Fault>>> {
        self.0.poll_recv(cx)
    }

    fn remaining(&self) -> Option<u64> {
        None
    }
}
