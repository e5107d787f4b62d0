//! Binding a plan's ports: a socket for each worker, all on one address (SO_REUSEPORT).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use portway_plan::Transport;
use socket2::{Domain, Protocol, Socket, Type};

/// How many connections may wait to be accepted, for each socket; the kernel's `somaxconn` bounds it too.
const BACKLOG: i32 = 4096;

/// A bound port.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// A socket for each worker.
    pub(crate) sockets: Vec<BoundSocket>,
}

/// A worker's socket of a port.
#[derive(Debug)]
pub(crate) enum BoundSocket {
    /// It listens.
    Tcp(TcpListener),
    /// It receives.
    Udp(UdpSocket),
}

/// Binds a port. Without an address, all of IPv6 and IPv4 in one socket, or IPv4 alone on a machine that has
/// no IPv6. `beside` says that this process has sockets with that port at a wider or a narrower address: the
/// kernel gives each connection to the narrowest.
pub(crate) fn bind(
    address: Option<IpAddr>,
    port: u16,
    transport: Transport,
    workers: usize,
    beside: bool,
) -> io::Result<Bound> {
    let bind_at = |address| bind_at(address, transport, workers, beside);
    match address.map(|ip| ip.to_canonical()) {
        Some(ip) => bind_at(SocketAddr::new(ip, port)),
        None => or_ipv4(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port), bind_at),
    }
}

/// Listens with one socket, which does not block. `[::]` is all of IPv6 and IPv4, or IPv4 alone on a machine that has
/// no IPv6.
///
/// # Errors
/// When the address cannot be bound.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    or_ipv4(address, |address| {
        let socket = socket(address, Transport::Tcp, false)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    })
}

/// Binds `[::]` as all of IPv4 where there is no IPv6.
fn or_ipv4<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(address) {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && no_ipv6(&error) => {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        bound => bound,
    }
}

/// Whether it failed because the machine has no IPv6 (EAFNOSUPPORT, EADDRNOTAVAIL).
fn no_ipv6(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = 97;
    error.raw_os_error() == Some(EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable
}

fn bind_at(address: SocketAddr, transport: Transport, workers: usize, beside: bool) -> io::Result<Bound> {
    // With SO_REUSEPORT the kernel lets a second process of the same user share the port and takes half of
    // the connections to it. A socket without it finds out first whether someone listens there; it cannot
    // tell who, so beside our own sockets it would find these.
    if address.port() != 0 && !beside {
        socket(address, transport, false)?.bind(&address.into())?;
    }
    let mut bound = Bound { address, sockets: Vec::with_capacity(workers) };
    for _ in 0..workers {
        let socket = socket(address, transport, true)?;
        socket.bind(&bound.address.into())?;
        // The first socket on port 0 decides the port of the others.
        bound.address = socket.local_addr()?.as_socket().unwrap_or(bound.address);
        bound.sockets.push(match transport {
            Transport::Tcp => BoundSocket::Tcp(socket.into()),
            Transport::Udp => BoundSocket::Udp(socket.into()),
        });
    }
    // Only now, so that a port that fails half-way has not taken a connection.
    for socket in &bound.sockets {
        if let BoundSocket::Tcp(socket) = socket {
            socket2::SockRef::from(socket).listen(BACKLOG)?;
        }
    }
    Ok(bound)
}

fn socket(address: SocketAddr, transport: Transport, shared: bool) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    if transport == Transport::Tcp {
        // For UDP it would let two sockets that do not share have one port.
        socket.set_reuse_address(true)?;
        // Linux hands it on to accepted connections, which saves a call for each.
        socket.set_tcp_nodelay(true)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_someone_shares_or_not_is_in_use() {
        let localhost = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        for transport in [Transport::Tcp, Transport::Udp] {
            let first = bind(localhost, 0, transport, 2, false).unwrap();
            assert_eq!(first.sockets.len(), 2);
            let port = first.address.port();
            assert_eq!(
                bind(localhost, port, transport, 1, false).unwrap_err().kind(),
                io::ErrorKind::AddrInUse
            );
            drop(first);
            assert!(bind(localhost, port, transport, 1, false).is_ok());
        }
    }

    #[test]
    fn no_address_is_both_families() {
        let bound = bind(None, 0, Transport::Tcp, 1, false).unwrap();
        let listening = listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0)).unwrap();
        for address in [bound.address, listening.local_addr().unwrap()] {
            std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).unwrap();
            if address.is_ipv6() {
                std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).unwrap();
            }
        }
    }
}
