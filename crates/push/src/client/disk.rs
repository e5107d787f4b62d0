//! The last good plan, on disk: what a proxy serves that starts while the controller is away.
//!
//! Certificates are not kept: a key that seals them would lie beside them. So a restarted proxy serves at once what
//! needs no key, and is ready when the controller has sent the rest.
//!
//! The file is a header and [`message::Shard`]s, each with its length before it.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use portway_plan::{Plan, Shards};
use prost::Message as _;

use crate::assemble::{Assembly, Staged};
use crate::auth::GatewayName;
use crate::encode::Encoder;
use crate::limits;
use crate::message::{self, Kind};
use crate::shard::{ShardHash, Sum};

/// The first line; it names the format.
const FORMAT: &str = "portway plan 1";
/// The longest file that is read, in bytes.
const LENGTH: u64 = 1024 * 1024 * 1024;

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub(super) enum DiskError {
    #[error("{path}: {error}")]
    File { path: PathBuf, error: io::Error },
    #[error("{path}: {reason}")]
    Content { path: PathBuf, reason: String },
}

fn path(dir: &Path) -> PathBuf {
    dir.join("plan")
}

/// The header: the format, the Gateway, how many certificates the plan has that are not in the file, and the sum.
fn header(gateway: &GatewayName, certificates: usize, sum: Sum) -> String {
    format!("{FORMAT}\n{gateway}\n{certificates}\n{:032x}\n", u128::from_le_bytes(sum.bytes()))
}

/// Keeps a plan, in place of the one before.
pub(super) fn save(dir: &Path, gateway: &GatewayName, plan: &Plan) -> Result<(), DiskError> {
    let path = path(dir);
    let file = |error| DiskError::File { path: path.clone(), error };
    let content =
        |error: serde_json::Error| DiskError::Content { path: path.clone(), reason: error.to_string() };
    let public = Plan { certificates: Shards::default(), ..plan.clone() };
    let shards = Encoder::default().encode(&public).map_err(content)?;
    let mut sorted: Vec<_> = shards.by_hash.iter().collect();
    sorted.sort_unstable_by_key(|(hash, shard)| (shard.kind(), **hash));
    let new = path.with_extension("new");
    let mut out = io::BufWriter::new(fs::File::create(&new).map_err(file)?);
    out.write_all(header(gateway, plan.certificates.len(), shards.sum).as_bytes()).map_err(file)?;
    let (mut body, mut frame) = (Vec::new(), Vec::new());
    for (hash, shard) in sorted {
        body.clear();
        shard.write(&mut body).map_err(content)?;
        let message = message::Shard {
            hash: Bytes::copy_from_slice(&hash.bytes()),
            kind: shard.kind().into(),
            body: Bytes::copy_from_slice(&body),
            more: false,
        };
        frame.clear();
        message.encode_length_delimited(&mut frame).map_err(|error| file(io::Error::other(error)))?;
        out.write_all(&frame).map_err(file)?;
    }
    out.flush().map_err(file)?;
    fs::rename(&new, &path).map_err(file)
}

/// The plan that was kept for that Gateway, and whether it is complete.
pub(super) fn load(dir: &Path, gateway: &GatewayName) -> Result<Option<(Assembly, bool)>, DiskError> {
    let path = path(dir);
    let file = |error| DiskError::File { path: path.clone(), error };
    let bytes = match fs::metadata(&path) {
        Ok(metadata) if metadata.len() <= LENGTH => fs::read(&path).map_err(file)?,
        Ok(_) => return Err(file(io::Error::other("it is too long"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(file(error)),
    };
    let content = |reason: String| DiskError::Content { path: path.clone(), reason };
    read(Bytes::from(bytes), gateway).map_err(content)
}

fn read(mut bytes: Bytes, gateway: &GatewayName) -> Result<Option<(Assembly, bool)>, String> {
    let mut line = || {
        let end = bytes.iter().take(1024).position(|byte| *byte == b'\n').ok_or("the header is cut")?;
        let line = bytes.split_to(end + 1);
        std::str::from_utf8(&line[..end]).map(str::to_owned).map_err(|_| "the header is no text")
    };
    if line()? != FORMAT || line()? != gateway.to_string() {
        // Of another version or another Gateway: it says nothing here.
        return Ok(None);
    }
    let certificates: usize = line()?.parse().map_err(|_| "the header has no count")?;
    let sum = u128::from_str_radix(&line()?, 16).map_err(|_| "the header has no sum")?;
    let sum = Sum::read(&sum.to_le_bytes()).ok_or("the header has no sum")?;
    let mut assembly = Assembly::default();
    let mut staged = Staged::new(0);
    let mut count = 0;
    while !bytes.is_empty() {
        let shard = message::Shard::decode_length_delimited(&mut bytes).map_err(|error| error.to_string())?;
        let hash = ShardHash::read(&shard.hash).ok_or("half a hash")?;
        count += 1;
        if shard.kind() == Kind::Certificate || count > limits::SHARDS {
            return Err("there is more in it than was put in".to_owned());
        }
        staged.whole(hash, shard.kind(), &shard.body, &assembly).map_err(|fault| fault.to_string())?;
    }
    assembly.take(staged, sum).map_err(|fault| fault.to_string())?;
    Ok(Some((assembly, certificates == 0)))
}
