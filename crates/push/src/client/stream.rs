//! One stream: says what is there, takes revisions, answers them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use portway_plan::Plan;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{self as stream, StreamExt as _};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::{Client, Ended, connect};
use crate::assemble::{Fault, Staged};
use crate::limits;
use crate::message::from_proxy::Message;
use crate::message::{self, FromController, FromProxy, Part};
use crate::outcome::{Outcome, shortened};
use crate::server::PATH;
use crate::shard::{ShardHash, Sum};

/// How often the token's file is looked at.
const TOKEN: Duration = Duration::from_secs(30);
/// How often a port that could not be bound is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(2);
/// How long after a change the plan is kept on disk, with all changes that came since.
const SAVE: Duration = Duration::from_secs(10);
/// How long the controller may take to hear the last that is said on a stream.
const HEARD: Duration = Duration::from_secs(5);
/// How long the controller may take to say whether it takes the stream.
const OPEN: Duration = Duration::from_secs(30);

/// What has been taken and served on this stream.
struct Served {
    revision: u64,
    plan: Arc<Plan>,
    outcome: Outcome,
}

/// Why a revision is not served, and whether its shards were taken over.
struct Rejected {
    reason: String,
    kept: bool,
}

impl Client {
    /// Opens a stream and follows it to its end.
    pub(super) async fn follow(&mut self) -> Result<Infallible, Ended> {
        let mut token = connect::token(&self.options.token_file).await?;
        let channel = connect::connect(&self.options).await?;
        let (sender, messages) = mpsc::channel(4);
        let mut request = Request::new(stream::iter(self.greeting()).chain(ReceiverStream::new(messages)));
        request
            .metadata_mut()
            .insert("authorization", connect::authorization(&token, &self.options.token_file)?);
        let mut inbound = open(channel, request).await?;

        let mut look = interval(TOKEN);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut staged: Option<Result<Staged, (u64, String)>> = None;
        let mut served: Option<Served> = None;
        let mut save_at: Option<Instant> = None;
        let mut bind_at: Option<Instant> = None;
        loop {
            tokio::select! {
                message = inbound.message() => {
                    let FromController { part, ticket_keys } = message?.ok_or(Ended::Closed)?;
                    self.connected();
                    if let Some(keys) = ticket_keys {
                        self.set_ticket_keys(keys).await;
                    }
                    // What else there may be one day is not for this version.
                    let Some(part) = part else { continue };
                    let Some(outcome) = self.part(part, &mut staged, &mut served).await else { continue };
                    bind_at = again(served.as_ref());
                    if outcome.rejected.is_empty() && save_at.is_none() {
                        save_at = Some(Instant::now() + SAVE);
                    }
                    say(&sender, Message::Outcome(outcome)).await?;
                    if let Some(reason) = self.reset.take() {
                        drop(sender);
                        heard(&mut inbound).await;
                        return Err(Ended::Reset(reason));
                    }
                }
                _ = look.tick() => {
                    // A file that cannot be read now may be read the next time; the old token is still good.
                    if let Ok(now) = connect::token(&self.options.token_file).await && now != token {
                        token.clone_from(&now);
                        say(&sender, Message::Token(message::Token { token: now })).await?;
                    }
                }
                () = until(bind_at), if bind_at.is_some() => {
                    if let Some(served) = &mut served
                        && let Ok(outcome) = self.apply(Arc::clone(&served.plan), true).await
                        && outcome != served.outcome
                    {
                        served.outcome = outcome;
                        say(&sender, Message::Outcome(served.outcome.message(served.revision))).await?;
                    }
                    bind_at = again(served.as_ref());
                }
                () = until(save_at), if save_at.is_some() => {
                    save_at = None;
                    self.save().await;
                }
            }
        }
    }

    /// Who the proxy is and what it has.
    fn greeting(&self) -> Vec<FromProxy> {
        let mut hashes: Vec<_> = self.assembly.hashes().collect();
        if hashes.len() > limits::SHARDS {
            hashes.clear();
        }
        let hello = message::Hello {
            namespace: self.options.gateway.namespace.to_string(),
            name: self.options.gateway.name.to_string(),
            pod_name: self.options.pod.name.to_string(),
            pod_uid: self.options.pod.uid.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            have: u32::try_from(hashes.len()).unwrap_or_default(),
            ticket_keys: true,
        };
        let have = hashes.chunks(limits::HASHES).map(|chunk| {
            let mut hashes = BytesMut::with_capacity(chunk.len() * ShardHash::LENGTH);
            chunk.iter().for_each(|hash| hashes.extend_from_slice(&hash.bytes()));
            Message::Have(message::Have { hashes: hashes.freeze() }).into()
        });
        std::iter::once(Message::Hello(hello).into()).chain(have).collect()
    }

    /// Takes a part in. After the last, what to answer.
    async fn part(
        &mut self,
        mut part: Part,
        staged: &mut Option<Result<Staged, (u64, String)>>,
        served: &mut Option<Served>,
    ) -> Option<message::Outcome> {
        let (last, sum, revision) = (part.last, std::mem::take(&mut part.sum), part.revision);
        let before = staged.take().unwrap_or_else(|| Ok(Staged::new(revision)));
        let now = before.and_then(|mut before| {
            let fault = if before.revision() == revision {
                before.add(part, &self.assembly).err()
            } else {
                Some(Fault::Protocol("a revision without its end"))
            };
            match fault {
                None => Ok(before),
                Some(fault) => Err((revision, fault.to_string())),
            }
        });
        if !last {
            *staged = Some(now);
            return None;
        }
        let outcome = match now {
            Ok(staged) => self.take(staged, &sum, served).await,
            Err((_, reason)) => Err(Rejected { reason, kept: false }),
        };
        Some(match outcome {
            Ok(outcome) => outcome.message(revision),
            Err(Rejected { reason, kept }) => {
                tracing::warn!(revision, reason, "a plan is rejected; what is served stays");
                message::Outcome {
                    revision,
                    rejected: shortened(&reason),
                    kept,
                    ..message::Outcome::default()
                }
            }
        })
    }

    /// Takes a revision over whose parts are all there, and has it served.
    async fn take(
        &mut self,
        staged: Staged,
        sum: &Bytes,
        served: &mut Option<Served>,
    ) -> Result<Outcome, Rejected> {
        let revision = staged.revision();
        let rejected = |reason| Rejected { reason, kept: false };
        let sum = Sum::read(sum).ok_or_else(|| rejected("there is no sum".to_owned()))?;
        let plan = match self.assembly.take(staged, sum) {
            Ok(plan) => plan,
            Err(fault) => {
                if matches!(fault, Fault::Diverged(_)) {
                    self.reset = Some(fault.to_string());
                }
                return Err(rejected(fault.to_string()));
            }
        };
        let applied = self.apply(Arc::clone(&plan), true).await;
        let outcome = applied.map_err(|reason| Rejected { reason, kept: true })?;
        self.unsaved = Some(Arc::clone(&plan));
        self.state.send_modify(|state| {
            state.revision = revision;
            state.from_disk = false;
        });
        *served = Some(Served { revision, plan, outcome: outcome.clone() });
        Ok(outcome)
    }
}

async fn open<S>(
    channel: tonic::transport::Channel,
    request: Request<S>,
) -> Result<Streaming<FromController>, Ended>
where
    S: stream::Stream<Item = FromProxy> + Send + 'static,
{
    let mut grpc = Grpc::new(channel).max_decoding_message_size(limits::FROM_CONTROLLER);
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<FromProxy, FromController>::default();
    let opening = grpc.streaming(request, PathAndQuery::from_static(PATH), codec);
    match timeout(OPEN, opening).await {
        Ok(opened) => Ok(opened?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("the controller does not answer").into()),
    }
}

/// Waits until the controller has taken what was said, which it shows by ending the stream.
async fn heard(inbound: &mut Streaming<FromController>) {
    let end = async { while let Ok(Some(_)) = inbound.message().await {} };
    // One that does not end it in time has not heard it, and gets to know when the stream breaks.
    let _ = timeout(HEARD, end).await;
}

async fn say(sender: &mpsc::Sender<FromProxy>, message: Message) -> Result<(), Ended> {
    sender.send(message.into()).await.map_err(|_| Ended::Closed)
}

/// When ports are to be tried again.
fn again(served: Option<&Served>) -> Option<Instant> {
    let again = served.is_some_and(|served| !served.outcome.unavailable.is_empty());
    again.then(|| Instant::now() + BIND_AGAIN)
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
