use std::time::Duration;

/// Bounds on what the backends' side may take. All have safe defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a connection may take to be established; 5 s.
    pub connect_timeout: Duration,
    /// How long a TLS handshake may take, after that; 5 s.
    pub handshake_timeout: Duration,
    /// How long an idle connection is kept; 60 s, below the 75 s after which many servers close theirs.
    pub idle_timeout: Duration,
    /// How many idle HTTP/1.1 connections one worker keeps to one endpoint; 256.
    pub idle_per_endpoint: usize,
    /// How many HTTP/1.1 connections of one worker to one endpoint may be in use at once; 4,096.
    pub connections_per_endpoint: usize,
    /// How many HTTP/2 connections one worker opens to one endpoint when their streams are used up; 16.
    pub h2_connections_per_endpoint: usize,
    /// How many requests of one worker may wait for a connection to one endpoint; 4,096. Further ones are
    /// answered with 503.
    pub waiting_per_endpoint: usize,
    /// How long a request waits for a connection while all are in use; 5 s.
    pub wait_timeout: Duration,
    /// How long nothing may be read from a backend or taken by it before an exchange without a timeout of
    /// its own is given up; 5 min. Does not hold for tunnels.
    pub stream_idle_timeout: Duration,
    /// How much of a request's body is kept so that it can be sent again, with 64 bytes counted for each
    /// piece in which it came; 64 KiB.
    pub replay_buffer: usize,
    /// The most that retries may add to a backend's requests in flight, in percent; 20, but always 10
    /// retries at once.
    pub retry_budget_percent: usize,
    /// How many mirrored requests one worker has in flight at once; 256. Further ones are not mirrored.
    pub mirrors: usize,
    /// How many bytes of a request's body a mirror may lag behind before it is cut; 1 MiB.
    pub mirror_lag: usize,
    /// How long a mirrored request may take; 15 s.
    pub mirror_timeout: Duration,
    /// How long an authorization service may take to answer; 5 s.
    pub auth_timeout: Duration,
    /// How many bytes of request bodies one worker holds at once for authorization services; 64 MiB.
    /// Further requests are answered with 503.
    pub auth_bodies: usize,
    /// How many bytes of answers over HTTP/2 one worker takes ahead of slow clients, beyond the first 16 KiB of
    /// each; 32 MiB. Further streams have no more than that.
    pub read_ahead: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            idle_per_endpoint: 256,
            connections_per_endpoint: 4096,
            h2_connections_per_endpoint: 16,
            waiting_per_endpoint: 4096,
            wait_timeout: Duration::from_secs(5),
            stream_idle_timeout: Duration::from_secs(300),
            replay_buffer: 64 * 1024,
            retry_budget_percent: 20,
            mirrors: 256,
            mirror_lag: 1024 * 1024,
            mirror_timeout: Duration::from_secs(15),
            auth_timeout: Duration::from_secs(5),
            auth_bodies: 64 * 1024 * 1024,
            read_ahead: 32 * 1024 * 1024,
        }
    }
}
