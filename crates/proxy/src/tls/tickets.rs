//! Session tickets (RFC 8446 section 4.6.1, RFC 5077): sealed with keys that all workers share, and that all
//! replicas of a Gateway share where a controller hands them out.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use portway_plan::TicketKey;
use rustls::server::ProducesTickets;

/// Bytes that tell which key a ticket is sealed with.
const NAME: usize = 16;
/// Bytes of a key.
const KEY: usize = 32;
/// Keys that are held: of the epoch before, this and the next, as handed out and as made here before that.
const MOST: usize = 8;

/// The keys of a proxy.
///
/// A ticket is sealed with the key of this epoch, and opened with that of the epoch before, too; so it is good for
/// one epoch at least and two at most. An epoch for which no key was handed out gets one that nobody else has.
#[derive(Default)]
pub(crate) struct Tickets(Mutex<Keys>);

#[derive(Default)]
struct Keys {
    /// Those that were handed out come first.
    held: Vec<Key>,
    /// Counts changes.
    version: u64,
}

struct Key {
    epoch: u64,
    secret: Vec<u8>,
}

/// Makes the tickets of listeners that let in the same clients.
pub(crate) struct Ticketer {
    tickets: Arc<Tickets>,
    /// Whom they let in: a ticket stands for the certificate that was shown when it was made.
    scope: Vec<u8>,
    sealers: Mutex<Sealers>,
}

#[derive(Default)]
struct Sealers {
    /// Of which version of the keys they are.
    version: u64,
    all: Vec<Sealer>,
}

struct Sealer {
    epoch: u64,
    name: [u8; NAME],
    key: LessSafeKey,
}

impl Tickets {
    /// Takes keys that were handed out. Those made here are still there for the tickets that they have sealed.
    pub(crate) fn set(&self, shared: &[TicketKey]) {
        let mut keys = lock(&self.0);
        let valid = shared.iter().filter(|key| key.key.0.len() == KEY);
        let mut held: Vec<Key> =
            valid.map(|key| Key { epoch: key.epoch, secret: key.key.0.clone() }).collect();
        for old in std::mem::take(&mut keys.held) {
            if !held.iter().any(|key| key.secret == old.secret) {
                held.push(old);
            }
        }
        held.truncate(MOST);
        keys.held = held;
        keys.version += 1;
    }

    /// Has a key for the epoch, and none that is older than the one before.
    fn advance(&self, epoch: u64) -> MutexGuard<'_, Keys> {
        let mut keys = lock(&self.0);
        let before = keys.held.len();
        keys.held.retain(|key| epoch <= key.epoch.saturating_add(1));
        let mut changed = keys.held.len() != before;
        if !keys.held.iter().any(|key| key.epoch == epoch) {
            let mut secret = vec![0; KEY];
            // Without randomness there are no tickets, and each handshake is a full one.
            if rand::fill(&mut secret).is_ok() {
                keys.held.push(Key { epoch, secret });
                changed = true;
            }
        }
        keys.version += u64::from(changed);
        keys
    }
}

impl Ticketer {
    /// With keys of its own for each scope, which follow from the proxy's.
    pub(crate) fn new(tickets: Arc<Tickets>, scope: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { tickets, scope, sealers: Mutex::default() })
    }

    fn sealers(&self, epoch: u64) -> MutexGuard<'_, Sealers> {
        let keys = self.tickets.advance(epoch);
        let mut sealers = lock(&self.sealers);
        if sealers.version != keys.version {
            sealers.version = keys.version;
            sealers.all = keys.held.iter().filter_map(|key| Sealer::new(key, &self.scope)).collect();
        }
        sealers
    }

    fn seal(&self, epoch: u64, state: &[u8]) -> Option<Vec<u8>> {
        let sealers = self.sealers(epoch);
        let sealer = sealers.all.iter().find(|sealer| sealer.epoch == epoch)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME + NONCE_LEN + state.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&sealer.name);
        ticket.extend_from_slice(&nonce);
        let mut sealed = state.to_vec();
        let nonce = Nonce::assume_unique_for_key(nonce);
        sealer.key.seal_in_place_append_tag(nonce, Aad::from(&sealer.name), &mut sealed).ok()?;
        ticket.extend_from_slice(&sealed);
        Some(ticket)
    }

    fn unseal(&self, epoch: u64, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let sealers = self.sealers(epoch);
        let sealer = sealers.all.iter().find(|sealer| sealer.name == *name)?;
        let mut state = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = sealer.key.open_in_place(nonce, Aad::from(&sealer.name), &mut state).ok()?.len();
        state.truncate(length);
        Some(state)
    }
}

impl Sealer {
    fn new(key: &Key, scope: &[u8]) -> Option<Self> {
        struct Length;
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                NAME + KEY
            }
        }
        let info = [&b"portway ticket"[..], scope];
        let mut bytes = [0; NAME + KEY];
        // RFC 5869. The secret is uniform, so that there is nothing for a salt to do.
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&key.secret);
        extracted.expand(&info, Length).ok()?.fill(&mut bytes).ok()?;
        let (name, secret) = bytes.split_first_chunk::<NAME>()?;
        let sealing = UnboundKey::new(&AES_256_GCM, secret).ok()?;
        Some(Self { epoch: key.epoch, name: *name, key: LessSafeKey::new(sealing) })
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer")
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TicketKey::EPOCH.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.seal(TicketKey::epoch(SystemTime::now()), plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.unseal(TicketKey::epoch(SystemTime::now()), cipher)
    }
}

/// What is under it is whole after a panic, too.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use portway_plan::PrivateKey;

    use super::*;

    fn shared(epochs: std::ops::RangeInclusive<u64>) -> Vec<TicketKey> {
        epochs.map(|epoch| TicketKey { epoch, key: PrivateKey(vec![epoch as u8; KEY]) }).collect()
    }

    fn replica(keys: &[TicketKey], scope: &[u8]) -> Arc<Ticketer> {
        let tickets = Arc::new(Tickets::default());
        tickets.set(keys);
        Ticketer::new(tickets, scope.to_vec())
    }

    #[test]
    fn a_ticket_is_good_in_its_epoch_and_the_next() {
        for keys in [vec![], shared(6..=8)] {
            let ticketer = replica(&keys, b"");
            let ticket = ticketer.seal(7, b"state").expect("a ticket");
            assert_eq!(ticketer.unseal(7, &ticket).as_deref(), Some(&b"state"[..]));
            assert_eq!(ticketer.unseal(8, &ticket).as_deref(), Some(&b"state"[..]));
            assert_eq!(ticketer.unseal(9, &ticket), None);
            assert!(lock(&ticketer.tickets.0).held.len() <= 2);
        }
    }

    #[test]
    fn replicas_with_the_same_keys_take_each_others_tickets() {
        let (a, b) = (replica(&shared(6..=8), b"x"), replica(&shared(7..=9), b"x"));
        let ticket = a.seal(7, b"state").expect("a ticket");
        assert_eq!(b.unseal(8, &ticket).as_deref(), Some(&b"state"[..]));
        assert_eq!(replica(&shared(6..=8), b"y").unseal(7, &ticket), None, "of another scope");
        assert_eq!(replica(&[], b"x").unseal(7, &ticket), None);
    }

    #[test]
    fn keys_that_come_later_do_not_end_what_was_sealed_before() {
        let ticketer = replica(&[], b"");
        let before = ticketer.seal(7, b"state").expect("a ticket");
        for _ in 0..20 {
            ticketer.tickets.set(&shared(6..=8));
        }
        assert_eq!(ticketer.unseal(7, &before).as_deref(), Some(&b"state"[..]));
        let after = ticketer.seal(7, b"state").expect("a ticket");
        assert_eq!(replica(&shared(6..=8), b"").unseal(7, &after).as_deref(), Some(&b"state"[..]));
        assert!(lock(&ticketer.tickets.0).held.len() <= MOST);
    }

    #[test]
    fn what_is_no_ticket_opens_nothing() {
        let ticketer = replica(&shared(6..=8), b"");
        let ticket = ticketer.seal(7, b"state").expect("a ticket");
        for length in 0..ticket.len() {
            assert_eq!(ticketer.unseal(7, &ticket[..length]), None);
            let mut other = ticket.clone();
            other[length] ^= 1;
            assert_eq!(ticketer.unseal(7, &other), None);
        }
        ticketer.tickets.set(&[TicketKey { epoch: 7, key: PrivateKey(vec![1]) }]);
        assert!(ticketer.seal(7, b"state").is_some(), "a key of a wrong length is none");
        ticketer.tickets.set(&shared(u64::MAX..=u64::MAX));
        assert!(ticketer.seal(7, b"state").is_some(), "an epoch that never ends changes nothing");
    }
}
