//! Small origins that do as they are told.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_local};

/// What an origin does with a request.
pub(crate) enum Act {
    /// Answers with that status and body.
    Answer(u16, String),
    /// Writes these bytes.
    Raw(Vec<u8>),
    /// The same, then closes.
    RawThenClose(Vec<u8>),
    /// Closes the connection without an answer.
    Close,
    /// Waits, then answers.
    Late(Duration, u16),
    /// Never answers.
    Hang,
}

/// A request as an origin has read it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// How many this origin had before.
    pub(crate) index: usize,
    /// The head, as it came.
    pub(crate) head: String,
    /// The body, without its framing.
    pub(crate) body: Vec<u8>,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, v) = line.split_once(':')?;
            n.eq_ignore_ascii_case(name).then(|| v.trim())
        })
    }
}

/// An HTTP/1.1 origin.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Rc<RefCell<Vec<Seen>>>,
    /// Connections that were accepted, and those that are open.
    pub(crate) accepted: Rc<Cell<usize>>,
    pub(crate) open: Rc<Cell<usize>>,
    task: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts an origin that acts on each request.
pub(crate) async fn origin(act: impl Fn(&Seen) -> Act + 'static) -> Origin {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let seen = Rc::new(RefCell::new(Vec::new()));
    let (accepted, open) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let act = Rc::new(act);
    let task = spawn_local({
        let (seen, accepted, open) = (seen.clone(), accepted.clone(), open.clone());
        async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                accepted.set(accepted.get() + 1);
                open.set(open.get() + 1);
                let (seen, open, act) = (seen.clone(), open.clone(), act.clone());
                spawn_local(async move {
                    serve(stream, &seen, &*act).await;
                    open.set(open.get() - 1);
                });
            }
        }
    });
    Origin { address, seen, accepted, open, task }
}

/// An origin that answers every request with its name.
pub(crate) async fn named(name: &'static str) -> Origin {
    origin(move |_| Act::Answer(200, name.into())).await
}

async fn serve(mut stream: TcpStream, seen: &RefCell<Vec<Seen>>, act: &impl Fn(&Seen) -> Act) {
    let mut buffer = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut buffer).await {
        let request = Seen { index: seen.borrow().len(), head, body };
        seen.borrow_mut().push(request.clone());
        let (bytes, close) = match act(&request) {
            Act::Answer(status, body) => (answer(status, &body), false),
            Act::Raw(bytes) => (bytes, false),
            Act::RawThenClose(bytes) => (bytes, true),
            Act::Close => return,
            Act::Late(pause, status) => {
                // Notices when the gateway gives up.
                let mut byte = [0];
                tokio::select! {
                    _ = stream.read(&mut byte) => return,
                    () = tokio::time::sleep(pause) => {}
                }
                (answer(status, "late"), false)
            }
            Act::Hang => {
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
                return;
            }
        };
        if stream.write_all(&bytes).await.is_err() || close {
            return;
        }
    }
}

pub(crate) fn answer(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Reads a whole message: head and body by its framing.
pub(crate) async fn request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        fill(stream, buffer).await?;
    };
    let head: Vec<u8> = buffer.drain(..end).collect();
    let head = String::from_utf8(head).expect("a head in UTF-8");
    let lower = head.to_ascii_lowercase();
    let mut body = Vec::new();
    if lower.contains("transfer-encoding: chunked") {
        loop {
            let line = loop {
                if let Some(end) = buffer.windows(2).position(|w| w == b"\r\n") {
                    break buffer.drain(..end + 2).collect::<Vec<u8>>();
                }
                fill(stream, buffer).await?;
            };
            let size = String::from_utf8_lossy(&line[..line.len() - 2]).into_owned();
            let size = usize::from_str_radix(&size, 16).expect("a chunk size");
            while buffer.len() < size + 2 {
                fill(stream, buffer).await?;
            }
            body.extend(buffer.drain(..size));
            buffer.drain(..2);
            if size == 0 {
                break;
            }
        }
    } else if let Some(at) = lower.find("content-length: ") {
        let rest = &lower[at + 16..];
        let length: usize = rest[..rest.find('\r').unwrap_or(0)].parse().expect("a length");
        while buffer.len() < length {
            fill(stream, buffer).await?;
        }
        body.extend(buffer.drain(..length));
    }
    Some((head, body))
}

async fn fill(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(()),
    }
}
