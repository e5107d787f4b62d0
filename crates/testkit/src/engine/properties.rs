//! What must hold for any bytes: the fuzz targets (`fuzz/`) and a test of bounded length run these.

use bytes::Bytes;
use http::Method;

use super::{Answered, Fetched, Served, fetch, relay, serve};

/// Bytes that a client sends. However they are cut, they mean the same; and what is sent on for a request is
/// that one request, and nothing when it has no end.
///
/// # Panics
/// When it does not hold.
pub fn requests(data: &[u8]) {
    // Behind a head without end, whether it is refused depends on how much of it has come; so it has one.
    let data = &[data, b"\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    run(async {
        let whole = serve(vec![Bytes::copy_from_slice(data)]).await;
        for pieces in splits(data) {
            let told = lengths(&pieces);
            assert_eq!(certain(serve(pieces).await), certain(whole.clone()), "cut into {told:?}");
        }
        one_in_one_out(whole).await;
        if let Some(pieces) = splits(data).pop() {
            one_in_one_out(serve(pieces).await).await;
        }
    });
}

/// What was sent for each request is that request.
async fn one_in_one_out(served: Served) {
    for (meaning, sent) in served.seen.into_iter().zip(served.sent) {
        let again = serve(vec![Bytes::from(sent.clone())]).await.seen;
        let told = format!("{meaning:?} was sent as {:?}", String::from_utf8_lossy(&sent));
        if meaning.fault.is_some() {
            assert!(again.iter().all(|message| message.fault.is_some()), "{told}: {again:?}");
        } else if !meaning.authority.is_empty() {
            // Without an authority (HTTP/1.0) `Host` is empty, which is right and which is refused here.
            assert_eq!(again, [meaning], "{told}");
        }
    }
}

/// Bytes that a backend answers with. However they are cut, they mean the same; and what the client gets is
/// that one response, or a response that is seen to be cut.
///
/// # Panics
/// When it does not hold.
pub fn responses(data: &[u8]) {
    run(async {
        for method in [Method::GET, Method::HEAD] {
            let whole = fetch(vec![Bytes::copy_from_slice(data)], method.clone()).await;
            for pieces in splits(data) {
                let told = lengths(&pieces);
                let cut = fetch(pieces, method.clone()).await;
                assert_eq!(certain_answer(&cut), certain_answer(&whole), "{method}, cut into {told:?}");
            }
            let Fetched { answer, reusable } = whole;
            let broken = answer.as_ref().map_or(true, |answer| answer.fault.is_some());
            assert!(!(broken && reusable), "a connection is used again after {answer:?}");
        }
        let answer = fetch(vec![Bytes::copy_from_slice(data)], Method::GET).await.answer;
        let wire = relay(vec![Bytes::copy_from_slice(data)]).await;
        let told = format!("{answer:?} was passed on as {:?}", String::from_utf8_lossy(&wire));
        let again = fetch(vec![Bytes::from(wire)], Method::GET).await.answer;
        match answer {
            Err(_) => assert_eq!(again.map(|answer| answer.status), Ok(502), "{told}"),
            Ok(Answered { fault: Some(_), .. }) => {
                assert!(again.is_ok_and(|answer| answer.fault.is_some()), "{told}");
            }
            // What is added, the date and the framing, may go beyond the limit of 128 lines.
            Ok(answer) if answer.fields.len() > 125 => {}
            Ok(answer) => assert_eq!(again.map(undated), Ok(undated(answer)), "{told}"),
        }
    });
}

/// What must not depend on how the bytes are cut. How much of a message without end is passed on may, and so
/// may the sizes of chunks.
fn certain(mut served: Served) -> Served {
    for meaning in served.seen.iter_mut().filter(|meaning| meaning.fault.is_some()) {
        meaning.body = Vec::new();
    }
    served.sent = Vec::new();
    served
}

/// The same of an answer; and a head that is both malformed and without end is the one or the other.
fn certain_answer(fetched: &Fetched) -> (Option<Answered>, bool) {
    let mut answer = fetched.answer.clone().ok();
    if let Some(answer) = answer.as_mut().filter(|answer| answer.fault.is_some()) {
        (answer.body, answer.fault) = (Vec::new(), Some(""));
    }
    (answer, fetched.reusable)
}

/// A date is added where there is none.
fn undated(mut answer: Answered) -> Answered {
    answer.fields.retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
    answer
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(test);
}

fn lengths(pieces: &[Bytes]) -> Vec<usize> {
    pieces.iter().map(Bytes::len).collect()
}

/// Ways to cut the bytes: in two, at two places that the bytes decide; in pieces of any size; and, where
/// there are not too many, one by one.
pub(super) fn splits(data: &[u8]) -> Vec<Vec<Bytes>> {
    let all = Bytes::copy_from_slice(data);
    if data.len() < 2 {
        return Vec::new();
    }
    let mut chance = Chance::new(
        data.iter()
            .fold(data.len() as u64, |sum, byte| sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte)),
    );
    let mut splits: Vec<Vec<Bytes>> = (0..2)
        .map(|_| {
            let at = 1 + chance.below(data.len() - 1);
            vec![all.slice(..at), all.slice(at..)]
        })
        .collect();
    let (mut rest, mut pieces) = (all.clone(), Vec::new());
    while !rest.is_empty() {
        let most = [4, 16, 256][chance.below(3)];
        pieces.push(rest.split_to(rest.len().min(1 + chance.below(most))));
    }
    splits.push(pieces);
    if data.len() <= 600 {
        splits.push(all.chunks(1).map(Bytes::copy_from_slice).collect());
    }
    splits
}

/// A sequence that looks random and is the same each time (splitmix64).
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// One sequence for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit as u64) as usize
    }

    fn of<'a, T: ?Sized>(&mut self, choices: &[&'a T]) -> &'a T {
        choices[self.below(choices.len())]
    }
}

/// What messages are made of, and what breaks them.
const WORDS: [&[u8]; 36] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\n\n",
    b"\0",
    b" ",
    b"\t",
    b":",
    b";",
    b",",
    b"\x0b",
    b"\x80",
    b"\xff",
    b"0",
    b"1",
    b"5",
    b"a",
    b"-",
    b"_",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive, upgrade\r\n",
    b"Upgrade: websocket\r\n",
    b"Host: b\r\n",
    b"Expect: 100-continue\r\n",
    b"TE: trailers\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
];

/// One of the seeds, changed in one to four places.
pub fn mutated(seeds: &[Vec<u8>], chance: &mut Chance) -> Vec<u8> {
    let mut data = seeds[chance.below(seeds.len())].clone();
    for _ in 0..=chance.below(4) {
        let at = chance.below(data.len() + 1);
        let end = (at + 1 + chance.below(12)).min(data.len());
        match chance.below(7) {
            0 => drop(data.drain(at..end)),
            1 => drop(data.splice(at..end.min(at + 1), chance.of(&WORDS).iter().copied())),
            2 | 3 => drop(data.splice(at..at, chance.of(&WORDS).iter().copied())),
            4 => {
                let copy = data[at..end].to_vec();
                data.splice(at..at, copy);
            }
            5 => {
                let other = &seeds[chance.below(seeds.len())];
                let from = chance.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ => {
                if let Some(byte) = data.get_mut(at) {
                    *byte ^= 1 << chance.below(8);
                }
            }
        }
    }
    data
}

/// Runs a property over the seeds and that many changed ones.
///
/// # Panics
/// When it does not hold; the bytes are printed.
pub fn hold(property: fn(&[u8]), seeds: &[Vec<u8>], times: usize, chance: &mut Chance) {
    let mut check = |data: Vec<u8>| {
        if std::panic::catch_unwind(|| property(&data)).is_err() {
            panic!("it does not hold for b\"{}\"", data.escape_ascii());
        }
    };
    seeds.iter().cloned().for_each(&mut check);
    (0..times).for_each(|_| check(mutated(seeds, chance)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_each_time_and_ever_different() {
        let seeds = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()];
        let all = |seed| {
            let mut chance = Chance::new(seed);
            (0..100).map(|_| mutated(&seeds, &mut chance)).collect::<Vec<_>>()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        let distinct: std::collections::HashSet<_> = all(1).into_iter().collect();
        assert!(distinct.len() > 90, "{}", distinct.len());
    }
}
