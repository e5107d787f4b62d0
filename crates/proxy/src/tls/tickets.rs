//! Session tickets (RFC 8446 section 4.6.1, RFC 5077): sealed with keys that all workers share, and that all
//! replicas of a Gateway share where a controller hands them out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, Guard};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use portway_plan::TicketKey;
use rustls::server::ProducesTickets;
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

/// Bytes that tell which key a ticket is sealed with.
const NAME: usize = 16;
/// Bytes of a key.
const KEY: usize = 32;
/// Bytes that tell when a session began: seconds since 1970.
const BEGUN: usize = 8;
/// Keys that are taken of those handed out: of the epoch before, this and the next, and what others may add.
const MOST: usize = 8;
/// How long after its whole handshake a session can be resumed, however often that was done before: by then a
/// client's certificate is checked anew (RFC 8446 section 4.6.1), and TLS 1.2 gets another master secret.
const SESSION: Duration = TicketKey::EPOCH.saturating_mul(2);
/// How often keys are looked for whose epochs have passed.
const LOOK: Duration = Duration::from_secs(5 * 60);

/// The keys of a proxy.
///
/// A ticket is sealed with the key of this epoch, and opened with that of the epoch before, and of the next one,
/// too (clocks differ); so it is good for one epoch at least and two at most. An epoch for which no key was handed
/// out gets one that nobody else has. No lock is held while a key is used.
pub(crate) struct Tickets {
    keys: ArcSwap<Keys>,
    clock: fn() -> SystemTime,
}

/// Those that were handed out come first.
type Keys = Vec<Arc<Key>>;

/// What follows from a secret, which itself is not kept. aws-lc wipes the key when it is dropped.
struct Key {
    epoch: u64,
    /// Made here, and not handed out.
    own: bool,
    name: [u8; NAME],
    sealing: LessSafeKey,
}

/// The tickets of listeners that let in the same clients.
#[derive(Clone)]
pub(crate) struct Scope {
    tickets: Arc<Tickets>,
    /// Whom they let in: a ticket stands for the certificate that was shown when its session began.
    clients: Arc<[u8]>,
}

/// The tickets of one connection: those that it gets are of the session that it resumes.
struct Session {
    scope: Scope,
    /// When the session began that is resumed, in seconds since 1970; 0: it begins now.
    begun: AtomicU64,
}

impl Default for Tickets {
    fn default() -> Self {
        Self::with_clock(SystemTime::now)
    }
}

impl Tickets {
    fn with_clock(clock: fn() -> SystemTime) -> Self {
        Self { keys: ArcSwap::default(), clock }
    }

    /// Takes keys that were handed out, in place of all that were before: when they follow from another secret,
    /// tickets under the old one are worth nothing from now on. Those made here stay for the tickets that they
    /// have sealed.
    pub(crate) fn set(&self, shared: &[TicketKey]) {
        let new = shared.iter().take(MOST).filter_map(|key| Key::new(key.epoch, false, &key.key.0));
        let new: Keys = new.map(Arc::new).collect();
        self.keys.rcu(|held| {
            let own = held.iter().filter(|key| key.own);
            new.iter().chain(own).cloned().collect::<Keys>()
        });
    }

    /// Drops the keys of other epochs than the one before, this and the next.
    fn expire(&self) {
        let epoch = TicketKey::epoch((self.clock)());
        if !self.keys.load().iter().all(|key| key.is_good_in(epoch)) {
            self.keys.rcu(|held| without_others(held, epoch));
        }
    }

    /// Has a key for the epoch, if there is randomness; without, there are no tickets, and each handshake is a
    /// whole one.
    fn keys(&self, epoch: u64) -> Guard<Arc<Keys>> {
        let held = self.keys.load();
        if held.iter().any(|key| key.epoch == epoch) {
            return held;
        }
        let mut secret = Zeroizing::new([0; KEY]);
        let Some(own) = rand::fill(&mut *secret).ok().and_then(|()| Key::new(epoch, true, &*secret)) else {
            return held;
        };
        let own = Arc::new(own);
        self.keys.rcu(|held| {
            let mut held = without_others(held, epoch);
            // Another worker may have been faster.
            if !held.iter().any(|key| key.epoch == epoch) {
                held.push(own.clone());
            }
            held
        });
        self.keys.load()
    }
}

fn without_others(held: &Keys, epoch: u64) -> Keys {
    held.iter().filter(|key| key.is_good_in(epoch)).cloned().collect()
}

/// Drops keys whose epochs have passed, also when nobody connects. Ends never.
pub(crate) async fn expire(tickets: Arc<Tickets>) {
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        tickets.expire();
    }
}

impl Key {
    /// `None` for a secret of a wrong length.
    fn new(epoch: u64, own: bool, secret: &[u8]) -> Option<Self> {
        struct Length;
        impl hkdf::KeyType for Length {
            fn len(&self) -> usize {
                NAME + KEY
            }
        }
        if secret.len() != KEY {
            return None;
        }
        let mut bytes = Zeroizing::new([0; NAME + KEY]);
        // RFC 5869. The secret is uniform, so that there is nothing for a salt to do.
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(secret);
        extracted.expand(&[b"portway session"], Length).ok()?.fill(&mut *bytes).ok()?;
        let (name, key) = bytes.split_first_chunk::<NAME>()?;
        let sealing = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).ok()?);
        Some(Self { epoch, own, name: *name, sealing })
    }

    fn is_good_in(&self, epoch: u64) -> bool {
        self.epoch.abs_diff(epoch) <= 1
    }
}

impl Scope {
    pub(crate) fn new(tickets: Arc<Tickets>, clients: Vec<u8>) -> Self {
        Self { tickets, clients: clients.into() }
    }

    /// The tickets of a connection that begins.
    pub(crate) fn connection(&self) -> Arc<dyn ProducesTickets> {
        Arc::new(Session { scope: self.clone(), begun: AtomicU64::new(0) })
    }

    /// A ticket: the key's name, the nonce and, sealed, when the session has begun and its state.
    fn seal(&self, begun: u64, state: &[u8]) -> Option<Vec<u8>> {
        let epoch = TicketKey::epoch((self.tickets.clock)());
        let keys = self.tickets.keys(epoch);
        let key = keys.iter().find(|key| key.epoch == epoch)?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let length = NAME + NONCE_LEN + BEGUN + state.len() + AES_256_GCM.tag_len();
        let mut ticket = Vec::with_capacity(length);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&begun.to_be_bytes());
        ticket.extend_from_slice(state);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let open = &mut ticket[NAME + NONCE_LEN..];
        let tag = key.sealing.seal_in_place_separate_tag(nonce, Aad::from(&self.clients), open).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    /// When the session began, and its state.
    fn unseal(&self, ticket: &[u8]) -> Option<(u64, Vec<u8>)> {
        let epoch = TicketKey::epoch((self.tickets.clock)());
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.tickets.keys.load();
        let key = keys.iter().find(|key| key.name == *name && key.is_good_in(epoch))?;
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let mut sealed = sealed.to_vec();
        let opened = key.sealing.open_in_place(nonce, Aad::from(&self.clients), &mut sealed).ok()?;
        let (begun, state) = opened.split_first_chunk::<BEGUN>()?;
        Some((u64::from_be_bytes(*begun), state.to_vec()))
    }
}

impl Session {
    /// How long ago that was.
    fn age(&self, begun: u64) -> Duration {
        Duration::from_secs(self.now().saturating_sub(begun))
    }

    /// In seconds since 1970.
    fn now(&self) -> u64 {
        let now = (self.scope.tickets.clock)();
        now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    /// When the session began that the connection has.
    fn begun(&self) -> u64 {
        match self.begun.load(Ordering::Relaxed) {
            0 => self.now(),
            begun => begun,
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl ProducesTickets for Session {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        SESSION.saturating_sub(self.age(self.begun())).min(TicketKey::EPOCH).as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.scope.seal(self.begun(), plain)
    }

    /// rustls resumes with the last ticket that opens, if it resumes at all; a whole handshake after one that
    /// opened but did not suit makes a session that ends as early as that one, which does no harm.
    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (begun, state) = self.scope.unseal(cipher)?;
        if self.age(begun) >= SESSION {
            return None;
        }
        self.begun.store(begun, Ordering::Relaxed);
        Some(state)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use portway_plan::PrivateKey;

    use super::*;

    thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
    }

    /// Sets the clock of this thread's tests, in seconds since 1970.
    pub(crate) fn set_clock(seconds: u64) {
        NOW.set(seconds);
    }

    /// Keys that go by the clock of the test.
    pub(crate) fn tickets() -> Arc<Tickets> {
        Arc::new(Tickets::with_clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.get())))
    }

    /// The first second of an epoch.
    pub(crate) fn epoch(number: u64) -> u64 {
        number * TicketKey::EPOCH.as_secs()
    }

    fn shared(root: u8, epochs: std::ops::RangeInclusive<u64>) -> Vec<TicketKey> {
        let secret = |epoch: u64| PrivateKey([[root; KEY / 2], [epoch as u8; KEY / 2]].concat());
        epochs.map(|epoch| TicketKey { epoch, key: secret(epoch) }).collect()
    }

    fn replica(keys: &[TicketKey], clients: &[u8]) -> Scope {
        let tickets = tickets();
        tickets.set(keys);
        Scope::new(tickets, clients.to_vec())
    }

    fn seal(scope: &Scope) -> Vec<u8> {
        scope.connection().encrypt(b"state").expect("a ticket")
    }

    fn opens(scope: &Scope, ticket: &[u8]) -> bool {
        let state = scope.connection().decrypt(ticket);
        state.inspect(|state| assert_eq!(state, b"state")).is_some()
    }

    #[test]
    fn a_ticket_is_good_in_its_epoch_and_the_next() {
        for keys in [vec![], shared(1, 6..=8)] {
            let replica = replica(&keys, b"");
            set_clock(epoch(8) - 1);
            let ticket = seal(&replica);
            assert!(opens(&replica, &ticket));
            set_clock(epoch(9) - 1);
            assert!(opens(&replica, &ticket));
            set_clock(epoch(9));
            assert!(!opens(&replica, &ticket));
        }
    }

    #[test]
    fn replicas_with_the_same_keys_take_each_others_tickets() {
        set_clock(epoch(7));
        let (a, b) = (replica(&shared(1, 6..=8), b"x"), replica(&shared(1, 7..=9), b"x"));
        let ticket = seal(&a);
        assert!(opens(&b, &ticket));
        assert!(!opens(&replica(&shared(1, 6..=8), b"y"), &ticket), "of other clients");
        assert!(!opens(&replica(&shared(2, 6..=8), b"x"), &ticket), "of another root");
        assert!(!opens(&replica(&[], b"x"), &ticket));
        // A replica whose clock is ahead.
        set_clock(epoch(8));
        let ticket = seal(&a);
        set_clock(epoch(8) - 1);
        assert!(opens(&b, &ticket));
    }

    #[test]
    fn keys_that_are_handed_out_do_not_end_what_was_sealed_with_own_ones() {
        set_clock(epoch(7));
        let before = replica(&[], b"");
        let ticket = seal(&before);
        for _ in 0..20 {
            before.tickets.set(&shared(1, 6..=8));
        }
        assert!(opens(&before, &ticket));
        assert!(opens(&replica(&shared(1, 6..=8), b""), &seal(&before)));
        assert_eq!(before.tickets.keys.load().len(), 4);
    }

    #[test]
    fn keys_of_another_root_revoke_those_before_at_once() {
        set_clock(epoch(7));
        let replica = replica(&shared(1, 6..=8), b"");
        let ticket = seal(&replica);
        replica.tickets.set(&shared(1, 7..=9));
        assert!(opens(&replica, &ticket), "of the same root");
        replica.tickets.set(&shared(2, 6..=8));
        assert!(!opens(&replica, &ticket));
        let ticket = seal(&replica);
        replica.tickets.set(&[]);
        assert!(!opens(&replica, &ticket));
    }

    #[test]
    fn a_session_ends_however_often_it_was_resumed() {
        let replica = replica(&[], b"");
        let begun = epoch(7) + 1000;
        set_clock(begun);
        let mut ticket = seal(&replica);
        for age in [5, 10, 11] {
            set_clock(begun + age * 3600);
            let connection = replica.connection();
            assert!(connection.decrypt(&ticket).is_some(), "after {age} hours");
            assert_eq!(connection.lifetime(), 3600 * (12 - age).min(6) as u32);
            ticket = connection.encrypt(b"state").expect("a ticket");
        }
        set_clock(begun + 12 * 3600 - 1);
        assert!(opens(&replica, &ticket));
        set_clock(begun + 12 * 3600);
        let connection = replica.connection();
        assert!(connection.decrypt(&ticket).is_none());
        assert_eq!(connection.lifetime(), 6 * 3600, "another session begins");
    }

    #[test]
    fn what_is_no_ticket_opens_nothing() {
        set_clock(epoch(7));
        let replica = replica(&shared(1, 6..=8), b"");
        let ticket = seal(&replica);
        for length in 0..ticket.len() {
            assert!(!opens(&replica, &ticket[..length]));
            let mut other = ticket.clone();
            other[length] ^= 1;
            assert!(!opens(&replica, &other));
        }
        replica.tickets.set(&[TicketKey { epoch: 7, key: PrivateKey(vec![1]) }]);
        seal(&replica); // A key of a wrong length is none.
        replica.tickets.set(&shared(1, u64::MAX..=u64::MAX));
        seal(&replica); // An epoch that never ends changes nothing.
        replica.tickets.set(&shared(1, 0..=100));
        assert!(replica.tickets.keys.load().len() <= MOST + 2);
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_dropped_when_their_epochs_have_passed_also_without_connections() {
        set_clock(epoch(7));
        let tickets = tickets();
        tickets.set(&shared(1, 6..=8));
        let key = Arc::downgrade(&tickets.keys.load()[0]);
        let expiring = tokio::spawn(expire(tickets.clone()));
        for (now, left) in [(7, 3), (8, 2), (9, 1), (10, 0)] {
            set_clock(epoch(now));
            // Time is the test's: this waits for nothing.
            tokio::time::sleep(LOOK * 2).await;
            assert_eq!(tickets.keys.load().len(), left, "in epoch {now}");
        }
        assert!(key.upgrade().is_none(), "nobody holds it");
        expiring.abort();
    }
}
