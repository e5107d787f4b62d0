//! The demo backend's WebSocket (RFC 6455): each frame comes back as it arrives, in memory that does not
//! grow with the frame.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Reply;

const KEY: HeaderName = http::header::SEC_WEBSOCKET_KEY;
const ACCEPT: HeaderName = http::header::SEC_WEBSOCKET_ACCEPT;

/// RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Whether the request asks for a WebSocket.
pub(super) fn is_upgrade(request: &Request<Incoming>) -> bool {
    let asks = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    request.headers().get(UPGRADE).is_some_and(asks) && request.headers().contains_key(KEY)
}

/// Answers 101 and echoes frames once the connection is switched.
pub(super) fn accept(mut request: Request<Incoming>) -> Response<Reply> {
    let key = request.headers().get(KEY).map(|key| key.as_bytes().to_vec()).unwrap_or_default();
    tokio::spawn(async move {
        let echoed = match hyper::upgrade::on(&mut request).await {
            Ok(upgraded) => echo(TokioIo::new(upgraded)).await,
            Err(error) => Err(std::io::Error::other(error)),
        };
        if let Err(error) = echoed {
            tracing::debug!(%error, "echo WebSocket ended");
        }
    });
    let mut response = Response::new(Reply::EMPTY);
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(value) = HeaderValue::try_from(accept_value(&key)) {
        headers.insert(ACCEPT, value);
    }
    response
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2).
fn accept_value(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(GUID);
    STANDARD.encode(hash.finish())
}

async fn echo(mut stream: TokioIo<Upgraded>) -> std::io::Result<()> {
    let mut chunk = vec![0; 16 * 1024];
    loop {
        let mut head = [0; 2];
        if stream.read_exact(&mut head).await.is_err() {
            return Ok(());
        }
        let opcode = head[0] & 0x0f;
        let mut left = match head[1] & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            short => u64::from(short),
        };
        let mut mask = [0; 4];
        if head[1] & 0x80 != 0 {
            stream.read_exact(&mut mask).await?;
        }
        let answer = if opcode == PING { PONG } else { opcode };
        if opcode != PONG {
            let mut out = vec![head[0] & 0xf0 | answer];
            match left {
                0..=125 => out.push(left as u8),
                126..=0xffff => {
                    out.push(126);
                    out.extend((left as u16).to_be_bytes());
                }
                _ => {
                    out.push(127);
                    out.extend(left.to_be_bytes());
                }
            }
            stream.write_all(&out).await?;
        }
        let mut at = 0;
        while left > 0 {
            let most = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let size = stream.read(&mut chunk[..most]).await?;
            if size == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            for byte in &mut chunk[..size] {
                *byte ^= mask[at % 4];
                at += 1;
            }
            if opcode != PONG {
                stream.write_all(&chunk[..size]).await?;
            }
            left -= size as u64;
        }
        stream.flush().await?;
        if opcode == CLOSE {
            return stream.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_accept_value_is_that_of_the_rfc() {
        assert_eq!(super::accept_value(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
