//! ARP (RFC 826) as RFC 5227 uses it: asking whether an address on a link is somebody's, and telling a link's machines whose it is now.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt},
        time::TimeVal,
    },
};

use crate::{Error, Result};

/// An Ethernet address.
pub type Mac = [u8; 6];

/// The length of an ARP message for IPv4 with its Ethernet header, in bytes.
pub const FRAME: usize = 42;
/// How often an address is asked for. RFC 5227 asks as often, but over seconds, for links that may still be waking up.
const PROBES: u32 = 3;
/// How long an answer is waited for after each. A machine on the link takes less than a millisecond.
const PATIENCE: Duration = Duration::from_millis(150);

const ETHER_TYPE: u16 = libc::ETH_P_ARP as u16;
const REQUEST: u16 = 1;
/// Ethernet, IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// The broadcast question, by `mac` and `sender`, for whose `target` is. From 0.0.0.0 it is a probe, which changes nobody's memory;
/// asked for the sender's own address it is an announcement.
pub fn request(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> [u8; FRAME] {
    let parts: [&[u8]; 9] = [
        &[0xff; 6],
        &mac,
        &ETHER_TYPE.to_be_bytes(),
        &KIND,
        &REQUEST.to_be_bytes(),
        &mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    ];
    let mut frame = [0; FRAME];
    for (byte, value) in frame.iter_mut().zip(parts.concat()) {
        *byte = value;
    }
    frame
}

/// Who but `own` says in this frame that it has the address, or is about to take it (RFC 5227, 2.1.1).
pub fn claimant(frame: &[u8], address: Ipv4Addr, own: Mac) -> Option<Mac> {
    let frame: &[u8; FRAME] = frame.first_chunk()?;
    let (sender, asked) = (&frame[28..32], &frame[38..42]);
    let mac: Mac = *frame[22..].first_chunk()?;
    if frame[12..14] != ETHER_TYPE.to_be_bytes() || frame[14..20] != KIND || mac == own {
        return None;
    }
    let probes = frame[20..22] == REQUEST.to_be_bytes() && sender == [0; 4] && asked == address.octets();
    (sender == address.octets() || probes).then_some(mac)
}

/// A socket that speaks ARP on one link. It takes `CAP_NET_RAW`.
#[derive(Debug)]
pub struct Socket {
    socket: OwnedFd,
    mac: Mac,
}

impl Socket {
    /// On the link of this index, which has this hardware address, in the calling thread's namespace.
    pub fn open(link: u32, mac: Mac) -> Result<Self> {
        // It hears nothing, of any link, until it is bound.
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .map_err(Error::errno("open a socket for ARP"))?;
        // SAFETY: all-zero is a valid value of these integers.
        let mut place: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        place.sll_family = libc::AF_PACKET as libc::sa_family_t;
        place.sll_protocol = ETHER_TYPE.to_be();
        place.sll_ifindex = link as i32;
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: place is a sockaddr_ll of that length.
        match unsafe { libc::bind(socket.as_raw_fd(), (&raw const place).cast(), length) } {
            0 => Ok(Self { socket, mac }),
            _ => Err(Error::system("bind a socket for ARP")(io::Error::last_os_error())),
        }
    }

    /// Tells everybody on the link that the address is here.
    pub fn announce(&self, address: Ipv4Addr) -> Result<()> {
        self.send(&request(self.mac, address, address), "announce an address")
    }

    /// Whether somebody else on the link has the address: who. Blocks for half a second when nobody answers.
    pub fn probe(&self, address: Ipv4Addr) -> Result<Option<Mac>> {
        for _ in 0..PROBES {
            self.send(&request(self.mac, Ipv4Addr::UNSPECIFIED, address), "ask for an address")?;
            let end = Instant::now() + PATIENCE;
            while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| left.as_micros() > 0) {
                let mut frame = [0; 128];
                let Some(length) = self.receive(&mut frame, left)? else { break };
                if let Some(other) = claimant(&frame[..length], address, self.mac) {
                    return Ok(Some(other));
                }
            }
        }
        Ok(None)
    }

    fn send(&self, frame: &[u8], step: &str) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).map(drop).map_err(Error::errno(step))
    }

    /// The length of the next frame, if one comes in this time.
    fn receive(&self, frame: &mut [u8], patience: Duration) -> Result<Option<usize>> {
        let patience = TimeVal::new(patience.as_secs() as i64, i64::from(patience.subsec_micros()));
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &patience).map_err(Error::errno("listen for ARP"))?;
        match recv(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(Error::errno("listen for ARP")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

    #[test]
    fn frames_are_as_the_standard_has_them() {
        let wanted = [
            [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6].as_slice(),
            &[0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0, 0, 0, 0, 1, 192, 0, 2, 9],
            &[0, 0, 0, 0, 0, 0, 192, 0, 2, 9],
        ];
        assert_eq!(request(OWN, ADDRESS, ADDRESS).as_slice(), wanted.concat());
    }

    #[test]
    fn who_has_or_wants_the_address_is_recognized() {
        let elsewhere = Ipv4Addr::new(192, 0, 2, 8);
        let mut answer = request(OTHER, ADDRESS, elsewhere);
        answer[21] = 2;
        let mut reply_from_nowhere = request(OTHER, Ipv4Addr::UNSPECIFIED, ADDRESS);
        reply_from_nowhere[21] = 2;
        let mut ipv6 = answer;
        ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
        let heard: [&[u8]; 8] = [
            &answer,
            &request(OTHER, ADDRESS, ADDRESS),
            &request(OTHER, Ipv4Addr::UNSPECIFIED, ADDRESS),
            &request(OWN, Ipv4Addr::UNSPECIFIED, ADDRESS),
            &request(OTHER, elsewhere, ADDRESS),
            &reply_from_nowhere,
            &ipv6,
            &answer[..41],
        ];
        let said = heard.map(|frame| claimant(frame, ADDRESS, OWN));
        assert_eq!(said, [Some(OTHER), Some(OTHER), Some(OTHER), None, None, None, None, None]);
    }
}
