//! As much of D-Bus as it takes to talk to logind: method calls with texts and numbers, their answers, signals, and descriptors
//! that come with them. A library for all of D-Bus would be two dozen crates more.

use std::{
    collections::VecDeque,
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::UnixStream,
};

/// A message is never longer than this; nothing that we ask for comes near it.
const LONGEST: usize = 1 << 20;

/// Why the bus is of no use.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// A system call failed.
    #[error("{0}")]
    Io(&'static str, #[source] io::Error),
    /// The bus does not let us in, or says no to a call.
    #[error("{0}")]
    Refused(String),
    /// What came is not understood.
    #[error("the bus said what is not understood")]
    Malformed,
}

/// Which method to call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Whose.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// Where the method is declared.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
}

impl Call<'static> {
    /// A method of the bus itself.
    pub fn to_bus() -> Self {
        let name = "org.freedesktop.DBus";
        Self { destination: name, path: "/org/freedesktop/DBus", interface: name, member: "" }
    }
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Argument<'a> {
    /// `s`
    Text(&'a str),
    /// `i`
    Number(i32),
}

/// What came.
#[derive(Debug, Default)]
pub struct Message {
    kind: u8,
    reply_to: Option<u32>,
    member: String,
    error: String,
    body: Vec<u8>,
    /// Descriptors that came with it.
    pub descriptors: Vec<OwnedFd>,
}

const METHOD_CALL: u8 = 1;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A connection.
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    input: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Bus {
    /// Connects and says who we are: the socket's other end knows our user.
    pub async fn connect(socket: &Path) -> Result<Self, BusError> {
        let stream = UnixStream::connect(socket).await.map_err(|e| BusError::Io("connect to the system bus", e))?;
        let mut bus = Self { stream, serial: 0, input: Vec::new(), descriptors: VecDeque::new() };
        let user: String = nix::unistd::geteuid().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        bus.say(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes()).await?;
        bus.hear("OK ").await?;
        bus.say(b"NEGOTIATE_UNIX_FD\r\n").await?;
        bus.hear("AGREE_UNIX_FD").await?;
        bus.say(b"BEGIN\r\n").await?;
        Ok(bus)
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        self.stream.write_all(bytes).await.map_err(|e| BusError::Io("write to the bus", e))
    }

    async fn hear(&mut self, expected: &str) -> Result<(), BusError> {
        let end = loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                break end;
            }
            self.fill().await?;
        };
        let line: Vec<u8> = self.input.drain(..end + 2).collect();
        match line.starts_with(expected.as_bytes()) {
            true => Ok(()),
            false => Err(BusError::Refused(format!("the bus answered {:?}", String::from_utf8_lossy(&line[..end])))),
        }
    }

    /// Sends a call; returns its number, which the answer names.
    pub async fn send(&mut self, call: &Call<'_>, arguments: &[Argument<'_>]) -> Result<u32, BusError> {
        self.serial += 1;
        let bytes = encode(self.serial, call, arguments);
        self.say(&bytes).await?;
        Ok(self.serial)
    }

    /// The next message.
    pub async fn receive(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some(length) = length(&self.input)?.filter(|length| self.input.len() >= *length) {
                let bytes: Vec<u8> = self.input.drain(..length).collect();
                let (mut message, count) = decode(&bytes).ok_or(BusError::Malformed)?;
                message.descriptors = self.descriptors.drain(..count.min(self.descriptors.len())).collect();
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    /// Reads what there is, with descriptors.
    async fn fill(&mut self) -> Result<(), BusError> {
        let stream = &self.stream;
        let read = || {
            let mut buffer = vec![0; 4096];
            let mut space = nix::cmsg_space!([std::os::fd::RawFd; 16]);
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
            let received = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
            let mut descriptors = Vec::new();
            for control in received.cmsgs()? {
                if let ControlMessageOwned::ScmRights(raw) = control {
                    // SAFETY: the kernel made these descriptors for this message; nobody else has them.
                    descriptors.extend(raw.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
                }
            }
            let count = received.bytes;
            buffer.truncate(count);
            Ok((buffer, descriptors))
        };
        let (bytes, descriptors) =
            stream.async_io(Interest::READABLE, read).await.map_err(|e| BusError::Io("read from the bus", e))?;
        if bytes.is_empty() {
            return Err(BusError::Io("read from the bus", io::ErrorKind::UnexpectedEof.into()));
        }
        self.input.extend_from_slice(&bytes);
        self.descriptors.extend(descriptors);
        Ok(())
    }
}

impl Message {
    /// Whether it is that signal.
    pub fn is_signal(&self, member: &str) -> bool {
        self.kind == SIGNAL && self.member == member
    }

    /// Whether it answers that call.
    pub fn answers(&self, serial: u32) -> bool {
        self.reply_to == Some(serial)
    }

    /// An answer that says no is an error.
    pub fn ok(self) -> Result<Self, BusError> {
        if self.kind != ERROR {
            return Ok(self);
        }
        let mut body = Reader { bytes: &self.body, at: 0 };
        let text = body.text().unwrap_or_default();
        Err(BusError::Refused(format!("{}: {text}", self.error)))
    }

    /// A body of one truth value.
    pub fn truth(&self) -> Option<bool> {
        Reader { bytes: &self.body, at: 0 }.number().map(|number| number != 0)
    }

    /// A body of one variant with a 64-bit number.
    pub fn number_in_variant(&self) -> Option<u64> {
        let mut body = Reader { bytes: &self.body, at: 0 };
        (body.signature()? == "t").then_some(())?;
        body.align(8);
        body.take(8)?.try_into().ok().map(u64::from_le_bytes)
    }
}

/// Writes values where D-Bus wants them: numbers of four bytes at multiples of four, texts with their length and a zero.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(signature.as_bytes());
        self.0.push(0);
    }

    /// A field of the header: its number, a variant.
    fn field(&mut self, number: u8, kind: &str, value: &str) {
        self.align(8);
        self.0.push(number);
        self.signature(kind);
        if kind == "g" { self.signature(value) } else { self.text(value) }
    }
}

fn encode(serial: u32, call: &Call<'_>, arguments: &[Argument<'_>]) -> Vec<u8> {
    let (mut body, mut signature) = (Writer::default(), String::new());
    for argument in arguments {
        match argument {
            Argument::Text(text) => (body.text(text), signature.push('s')),
            Argument::Number(number) => (body.number(number.cast_unsigned()), signature.push('i')),
        };
    }
    let mut fields = Writer::default();
    fields.field(1, "o", call.path);
    fields.field(2, "s", call.interface);
    fields.field(3, "s", call.member);
    fields.field(6, "s", call.destination);
    if !signature.is_empty() {
        fields.field(8, "g", &signature);
    }
    // Little-endian, version 1, no flags.
    let mut message = Writer(vec![b'l', METHOD_CALL, 0, 1]);
    message.number(u32::try_from(body.0.len()).unwrap_or(u32::MAX));
    message.number(serial);
    message.number(u32::try_from(fields.0.len()).unwrap_or(u32::MAX));
    message.0.extend(fields.0);
    message.align(8);
    message.0.extend(body.0);
    message.0
}

/// How long the message at the beginning of `input` is, once its first 16 bytes are there.
fn length(input: &[u8]) -> Result<Option<usize>, BusError> {
    let Some(start) = input.get(..16) else { return Ok(None) };
    let number = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]) as usize;
    let length = number(12).next_multiple_of(8) + number(4) + 16;
    // The bus passes on what its clients wrote, in their byte order; everybody on one machine has the same.
    if start[0] != b'l' || length > LONGEST { Err(BusError::Malformed) } else { Ok(Some(length)) }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.number()? as usize;
        let text = self.take(length + 1)?;
        std::str::from_utf8(&text[..length]).ok()
    }

    fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(*self.take(1)?.first()?);
        let text = self.take(length + 1)?;
        std::str::from_utf8(&text[..length]).ok()
    }
}

/// The message, and how many descriptors belong to it.
fn decode(bytes: &[u8]) -> Option<(Message, usize)> {
    let mut message = Message { kind: *bytes.get(1)?, ..Message::default() };
    let mut header = Reader { bytes, at: 12 };
    let end = header.number()? as usize + 16;
    let mut descriptors = 0;
    while header.at < end {
        header.align(8);
        let field = *header.take(1)?.first()?;
        match (field, header.signature()?) {
            (3, "s") => message.member = header.text()?.to_owned(),
            (4, "s") => message.error = header.text()?.to_owned(),
            (5, "u") => message.reply_to = Some(header.number()?),
            (9, "u") => descriptors = header.number()? as usize,
            (_, "s" | "o") => drop(header.text()?),
            (_, "g") => drop(header.signature()?),
            (_, "u") => drop(header.number()?),
            _ => return None,
        }
    }
    message.body = bytes.get(end.next_multiple_of(8)..)?.to_vec();
    Some((message, descriptors))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_in_bytes() {
        let call = Call { member: "AddMatch", ..Call::to_bus() };
        let bytes = encode(2, &call, &[Argument::Text("ab"), Argument::Number(1)]);
        let fields = b"\x01\x01o\0\x15\0\0\0/org/freedesktop/DBus\0\0\0\
            \x02\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
            \x03\x01s\0\x08\0\0\0AddMatch\0\0\0\0\0\0\0\0\
            \x06\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0\
            \x08\x01g\0\x02si\0";
        let mut expected = b"l\x01\0\x01\x0c\0\0\0\x02\0\0\0".to_vec();
        expected.extend_from_slice(&(fields.len() as u32).to_le_bytes());
        expected.extend_from_slice(fields);
        expected.extend_from_slice(b"\x02\0\0\0ab\0\0\x01\0\0\0");
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&expected));
        assert_eq!(length(&bytes).unwrap(), Some(bytes.len()));
        let (message, descriptors) = decode(&bytes).unwrap();
        assert_eq!((message.member.as_str(), message.body.len(), descriptors), ("AddMatch", 12, 0));
    }

    #[test]
    fn what_is_cut_off_or_too_long_is_no_message() {
        let bytes = encode(1, &Call { member: "Hello", ..Call::to_bus() }, &[]);
        assert!((0..bytes.len()).all(|end| decode(&bytes[..end]).is_none()));
        assert!(matches!(length(&bytes[..15]), Ok(None)));
        let mut long = bytes;
        long[7] = 0x7f;
        assert!(length(&long).is_err());
    }
}
