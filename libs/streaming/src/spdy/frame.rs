//! Frames as bytes, and back. Plain functions; who reads and writes them is [`super::connection`].

use super::{
    Error,
    headers::{Compressor, Decompressor},
};
use crate::stream::{Command, Headers};

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// `FLAG_FIN`, on data and on control frames alike.
pub const FIN: u8 = 1;

/// The first eight bytes of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A data frame.
    Data {
        /// Whose.
        id: u32,
        /// [`FIN`] or not.
        flags: u8,
        /// How many bytes follow.
        length: usize,
    },
    /// A control frame.
    Control {
        /// Which.
        kind: u16,
        /// [`FIN`] or not.
        flags: u8,
        /// How many bytes follow.
        length: usize,
    },
}

/// Takes a frame's head apart.
pub fn head(bytes: [u8; 8]) -> Result<Head, Error> {
    let first = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let flags = bytes[4];
    let length = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
    if first & 0x8000_0000 == 0 {
        return Ok(Head::Data { id: first, flags, length });
    }
    if first >> 16 & 0x7fff != 3 {
        return Err(Error::Protocol("not version 3"));
    }
    Ok(Head::Control { kind: first as u16, flags, length })
}

/// A control frame that asks for something.
#[derive(Debug, PartialEq, Eq)]
pub enum Control {
    /// The peer opens a stream.
    Open {
        /// Its id.
        id: u32,
        /// What it is for.
        headers: Headers,
        /// Nothing will follow from the peer.
        fin: bool,
    },
    /// The peer accepts a stream.
    Reply {
        /// Which.
        id: u32,
        /// Nothing will follow from the peer.
        fin: bool,
    },
    /// The peer drops a stream.
    Reset {
        /// Which.
        id: u32,
    },
    /// To be echoed if the peer began it.
    Ping {
        /// Odd from clients, even from servers.
        id: u32,
    },
    /// No more streams.
    GoAway,
    /// More headers; only their end of stream matters.
    Headers {
        /// Whose.
        id: u32,
        /// Nothing will follow from the peer.
        fin: bool,
    },
    /// SETTINGS, WINDOW_UPDATE, CREDENTIAL: nothing we act on.
    Other,
}

fn word(payload: &[u8], at: usize) -> Result<u32, Error> {
    let bytes = payload.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok());
    Ok(u32::from_be_bytes(bytes.ok_or(Error::Protocol("truncated control frame"))?) & 0x7fff_ffff)
}

/// Reads a control frame; header blocks go through `inflate` whatever becomes of the frame, as its state must move on.
pub fn control(kind: u16, flags: u8, payload: &[u8], inflate: &mut Decompressor) -> Result<Control, Error> {
    let fin = flags & FIN != 0;
    let after = |at: usize| payload.get(at..).ok_or(Error::Protocol("truncated control frame"));
    Ok(match kind {
        SYN_STREAM => Control::Open { id: word(payload, 0)?, headers: inflate.headers(after(10)?)?, fin },
        SYN_REPLY => {
            inflate.headers(after(4)?)?;
            Control::Reply { id: word(payload, 0)?, fin }
        }
        HEADERS => {
            inflate.headers(after(4)?)?;
            Control::Headers { id: word(payload, 0)?, fin }
        }
        RST_STREAM => Control::Reset { id: word(payload, 0)? },
        PING => {
            let bytes = payload.first_chunk::<4>().ok_or(Error::Protocol("truncated control frame"))?;
            Control::Ping { id: u32::from_be_bytes(*bytes) }
        }
        GOAWAY => Control::GoAway,
        _ => Control::Other,
    })
}

fn control_frame(kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + payload.len());
    out.extend((0x8003_0000 | u32::from(kind)).to_be_bytes());
    out.extend((payload.len() as u32).to_be_bytes());
    out.extend(payload);
    out
}

fn data_head(id: u32, flags: u8, length: usize) -> Vec<u8> {
    let mut out = id.to_be_bytes().to_vec();
    out.extend((u32::from(flags) << 24 | length as u32).to_be_bytes());
    out
}

/// The bytes of a command, but for a data frame's payload, which follows as it is. `last_good` goes into GOAWAY.
pub fn encode(command: &Command, compress: &mut Compressor, last_good: u32) -> Result<Vec<u8>, Error> {
    Ok(match command {
        Command::Open { id, headers } => {
            let mut payload = id.to_be_bytes().to_vec();
            // No associated stream, highest priority, no slot.
            payload.extend([0; 6]);
            payload.extend(compress.block(headers)?);
            control_frame(SYN_STREAM, &payload)
        }
        Command::Reply { id } => {
            let mut payload = id.to_be_bytes().to_vec();
            payload.extend(compress.block(&Headers::default())?);
            control_frame(SYN_REPLY, &payload)
        }
        Command::Data { id, bytes } => data_head(*id, 0, bytes.len()),
        Command::Finish { id } => data_head(*id, FIN, 0),
        Command::Reset { id, status } => control_frame(RST_STREAM, &[id.to_be_bytes(), status.to_be_bytes()].concat()),
        Command::Ping { id } => control_frame(PING, &id.to_be_bytes()),
        Command::Close => control_frame(GOAWAY, &[last_good.to_be_bytes(), 0u32.to_be_bytes()].concat()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(command: &Command) -> (Head, Control) {
        let bytes = encode(command, &mut Compressor::new().unwrap(), 7).unwrap();
        let first = head(*bytes.first_chunk().unwrap()).unwrap();
        let Head::Control { kind, flags, length } = first else { panic!("no control frame") };
        assert_eq!(length, bytes.len() - 8);
        (first, control(kind, flags, &bytes[8..], &mut Decompressor::default()).unwrap())
    }

    #[test]
    fn control_frames_come_back() {
        let headers = Headers::of(&[("streamtype", "stdin")]);
        let open = Command::Open { id: 1, headers: headers.clone() };
        assert_eq!(round(&open).1, Control::Open { id: 1, headers, fin: false });
        assert_eq!(round(&Command::Reply { id: 5 }).1, Control::Reply { id: 5, fin: false });
        assert_eq!(round(&Command::Reset { id: 5, status: 5 }).1, Control::Reset { id: 5 });
        assert_eq!(round(&Command::Ping { id: 9 }).1, Control::Ping { id: 9 });
        assert_eq!(round(&Command::Close).1, Control::GoAway);
    }

    #[test]
    fn heads_are_as_on_the_wire() {
        let bytes = [0x80, 3, 0, 6, 0, 0, 0, 4];
        assert_eq!(head(bytes).unwrap(), Head::Control { kind: 6, flags: 0, length: 4 });
        assert_eq!(head([0, 0, 0, 3, 1, 0, 1, 0]).unwrap(), Head::Data { id: 3, flags: 1, length: 256 });
        assert!(head([0x80, 2, 0, 1, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn truncated_frames_are_errors() {
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, PING, HEADERS] {
            assert!(control(kind, 0, &[0, 0], &mut Decompressor::default()).is_err());
        }
    }
}
