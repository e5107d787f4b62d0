//! A bound UDP socket that knows at which of the machine's addresses a datagram has come in: the answer must
//! come from there, or a client that is particular about it (most are) drops it.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket as StdSocket};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt,
};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Datagrams {
    socket: UdpSocket,
    /// It is bound to all addresses: the kernel says at which one a datagram has come in.
    all: bool,
}

/// Whose datagrams they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flow {
    /// Where they come from.
    pub(crate) client: SocketAddr,
    /// At which address they have come in, where that is not the one that is bound.
    pub(crate) local: Option<IpAddr>,
}

impl Datagrams {
    /// # Errors
    /// When the socket cannot be registered with the runtime or will not say where datagrams come in.
    pub(crate) fn new(socket: StdSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let all = address.ip().is_unspecified();
        if all && address.is_ipv4() {
            setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        } else if all {
            // Covers datagrams of IPv4 on sockets of both families, too.
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        Ok(Self { socket: UdpSocket::from_std(socket)?, all })
    }

    /// Waits until there may be something to receive.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Receives a datagram, if one is there. What does not fit the buffer is lost.
    pub(crate) fn try_receive(&self, buffer: &mut [u8]) -> io::Result<(usize, Flow)> {
        if !self.all {
            let (length, client) = self.socket.try_recv_from(buffer)?;
            return Ok((length, Flow { client, local: None }));
        }
        self.socket.try_io(Interest::READABLE, || {
            let mut control = nix::cmsg_space!(in_pktinfo, in6_pktinfo);
            let mut slices = [IoSliceMut::new(buffer)];
            let fd = self.socket.as_fd().as_raw_fd();
            let received =
                recvmsg::<SockaddrStorage>(fd, &mut slices, Some(&mut control), MsgFlags::empty())?;
            let local = received.cmsgs()?.find_map(|message| match message {
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    Some(IpAddr::from(info.ipi_spec_dst.s_addr.to_ne_bytes()))
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => Some(IpAddr::from(info.ipi6_addr.s6_addr)),
                _ => None,
            });
            let client = received.address.as_ref().and_then(client);
            let client = client.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            Ok((received.bytes, Flow { client, local }))
        })
    }

    /// Sends a datagram back, from the address to which the client has sent its own. Past the runtime, which
    /// would have to learn first that there is room: datagrams do not wait for any.
    pub(crate) fn try_send(&self, bytes: &[u8], flow: Flow) -> io::Result<()> {
        let Some(local) = flow.local else {
            return SockRef::from(&self.socket).send_to(bytes, &flow.client.into()).map(drop);
        };
        let slices = [IoSlice::new(bytes)];
        let fd = self.socket.as_fd().as_raw_fd();
        let to = SockaddrStorage::from(flow.client);
        let send = |message| sendmsg(fd, &slices, &[message], MsgFlags::empty(), Some(&to));
        match local {
            IpAddr::V4(ip) => send(ControlMessage::Ipv4PacketInfo(&in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(ip.octets()) },
                ipi_addr: in_addr { s_addr: 0 },
            })),
            IpAddr::V6(ip) => send(ControlMessage::Ipv6PacketInfo(&in6_pktinfo {
                ipi6_addr: in6_addr { s6_addr: ip.octets() },
                ipi6_ifindex: 0,
            })),
        }?;
        Ok(())
    }
}

fn client(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddrV4::from(*v4).into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into()))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    /// 127.0.0.2 is not what the kernel would choose to answer 127.0.0.1 from.
    #[tokio::test]
    async fn the_answer_comes_from_where_the_question_went() {
        for bound in ["0.0.0.0:0", "[::]:0"] {
            let Ok(socket) = StdSocket::bind(bound) else { continue };
            socket.set_nonblocking(true).unwrap();
            let port = socket.local_addr().unwrap().port();
            let socket = Datagrams::new(socket).unwrap();
            let client = StdSocket::bind("127.0.0.1:0").unwrap();
            let server: SocketAddr = (Ipv4Addr::new(127, 0, 0, 2), port).into();
            client.send_to(b"question", server).unwrap();
            let mut buffer = [0; 100];
            let (length, flow) = loop {
                socket.readable().await.unwrap();
                match socket.try_receive(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => break received.unwrap(),
                }
            };
            assert_eq!(&buffer[..length], b"question");
            socket.try_send(b"answer", flow).unwrap();
            let (length, from) = client.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..length], from), (&b"answer"[..], server), "{bound}");
        }
    }
}
