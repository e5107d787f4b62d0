//! HTTP/1.1 messages as they are on the wire, for both ends of a test: nothing is normalised or forgiven.

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// A connection: plain or TLS.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// One message, as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// The start line: `GET / HTTP/1.1` or `HTTP/1.1 200 OK`.
    pub start: String,
    /// Names and values in their order and spelling.
    pub headers: Vec<(String, String)>,
    /// The body, without the chunks' framing.
    pub body: Vec<u8>,
    /// The trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Message {
    /// The status of a response; 0 for what is none.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The target of a request.
    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// The first value of a header, by its name without regard to case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str())
    }

    /// All values of a header, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    }
}

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// A request.
    Request,
    /// A response; without a body where the request was a HEAD.
    Response {
        /// Whether the request was a HEAD.
        to_head: bool,
    },
}

/// One end of a connection.
pub struct Wire {
    io: Box<dyn Io>,
    buffer: Vec<u8>,
}

impl Wire {
    /// On a connection.
    pub fn new(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), buffer: Vec::new() }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.io.write_all(bytes).await?;
        self.io.flush().await?;
        Ok(())
    }

    /// Sends nothing more; what comes can still be read.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.io.shutdown().await?)
    }

    /// The next message, body and all; `None` when the other end closed instead of beginning one.
    ///
    /// # Errors
    /// When the connection breaks within a message, or its framing is wrong.
    pub async fn message(&mut self, reading: Reading) -> anyhow::Result<Option<Message>> {
        let Some(mut message) = self.head().await? else { return Ok(None) };
        let bodiless = match reading {
            Reading::Request => false,
            Reading::Response { to_head } => to_head || matches!(message.status(), 100..=199 | 204 | 304),
        };
        if bodiless {
            return Ok(Some(message));
        }
        if message.has_token("transfer-encoding", "chunked") {
            self.chunks(&mut message).await?;
        } else if let Some(length) = message.header("content-length") {
            let length: usize = length.parse().with_context(|| format!("Content-Length: {length}"))?;
            message.body = self.exactly(length).await?;
        } else if matches!(reading, Reading::Response { .. }) {
            message.body = self.rest().await?;
        }
        Ok(Some(message))
    }

    /// As [`Wire::message`], but waits for the message's first byte as long as it takes: a pooled connection
    /// idles.
    ///
    /// # Errors
    /// As [`Wire::message`].
    pub async fn idle_message(&mut self, reading: Reading) -> anyhow::Result<Option<Message>> {
        if self.buffer.is_empty() && self.io.read_buf(&mut self.buffer).await? == 0 {
            return Ok(None);
        }
        self.message(reading).await
    }

    /// Sends back each byte that comes, until the other end closes.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn mirror(&mut self) -> anyhow::Result<()> {
        loop {
            let bytes = std::mem::take(&mut self.buffer);
            self.write(&bytes).await?;
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return self.finish().await;
            }
        }
    }

    /// The head of the next message; its body stays on the connection.
    ///
    /// # Errors
    /// When the connection breaks within the head.
    pub async fn head(&mut self) -> anyhow::Result<Option<Message>> {
        let end = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill().await? == 0 {
                ensure!(self.buffer.is_empty(), "closed within a head: {:?}", self.so_far());
                return Ok(None);
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let text = String::from_utf8_lossy(&head);
        let mut lines = text.trim_end().split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        Ok(Some(Message { start, headers: fields(lines)?, ..Message::default() }))
    }

    /// Exactly so many bytes.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn exactly(&mut self, length: usize) -> anyhow::Result<Vec<u8>> {
        while self.buffer.len() < length {
            ensure!(self.fill().await? > 0, "closed after {} of {length} bytes", self.buffer.len());
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// All bytes until the other end closes.
    ///
    /// # Errors
    /// When it resets instead.
    pub async fn rest(&mut self) -> anyhow::Result<Vec<u8>> {
        while self.fill().await? > 0 {}
        Ok(std::mem::take(&mut self.buffer))
    }

    async fn chunks(&mut self, message: &mut Message) -> anyhow::Result<()> {
        loop {
            let line = self.line().await?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(digits, 16).with_context(|| format!("chunk size {line:?}"))?;
            if size == 0 {
                break;
            }
            message.body.extend(self.exactly(size).await?);
            ensure!(self.line().await?.is_empty(), "no CRLF after a chunk");
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            trailers.push(line);
        }
        message.trailers = fields(trailers.iter().map(String::as_str))?;
        Ok(())
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = self.buffer.drain(..at + 2).take(at).collect();
                return Ok(String::from_utf8(line)?);
            }
            ensure!(self.fill().await? > 0, "closed within a line: {:?}", self.so_far());
        }
    }

    async fn fill(&mut self) -> anyhow::Result<usize> {
        crate::soon("bytes from the other end", self.io.read_buf(&mut self.buffer)).await?.map_err(Into::into)
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.buffer).into_owned()
    }
}

fn fields<'a>(lines: impl Iterator<Item = &'a str>) -> anyhow::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { bail!("a header without a colon: {line:?}") };
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
    Ok(fields)
}
