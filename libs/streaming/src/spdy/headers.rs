//! Header blocks: zlib with SPDY/3's dictionary, one state a direction for the whole connection.
//!
//! `flate2`'s default backend has no preset dictionaries; zlib-rs has and is plain Rust.

use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateError, InflateFlush, Status};

use super::Error;
use crate::stream::Headers;

/// The words of the dictionary that are stored with their length before them (SPDY/3, "Name/Value Header Block").
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// The rest of it, without lengths.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// No header block that we have use for is larger than this once inflated.
const LIMIT: usize = 64 << 10;

fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('_', " ");
        out.extend((word.len() as u32).to_be_bytes());
        out.extend(word.as_bytes());
    }
    out.extend(TEXT.as_bytes());
    out
}

/// Compresses the header blocks of one direction.
pub struct Compressor(Deflate);

impl Compressor {
    /// A fresh state.
    pub fn new() -> Result<Self, Error> {
        let mut deflate = Deflate::new(6, true, 15);
        deflate.set_dictionary(&dictionary()).map_err(|_| Error::Protocol("header compression"))?;
        Ok(Self(deflate))
    }

    /// The block of `headers`, flushed so that the peer can inflate it whole.
    pub fn block(&mut self, headers: &Headers) -> Result<Vec<u8>, Error> {
        let mut plain = Vec::new();
        let mut text = |part: &str| {
            plain.extend((part.len() as u32).to_be_bytes());
            plain.extend(part.as_bytes());
        };
        // Names are written once; further values of a name follow the first behind a NUL.
        let mut names: Vec<&str> = Vec::new();
        let mut pairs = Vec::new();
        for (name, _) in &headers.0 {
            if !names.contains(&name.as_str()) {
                names.push(name);
                let values: Vec<&str> = headers.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
                pairs.push((name.as_str(), values.join("\0")));
            }
        }
        for (name, value) in &pairs {
            text(name);
            text(value);
        }
        let mut input = (pairs.len() as u32).to_be_bytes().to_vec();
        input.append(&mut plain);
        self.deflate(&input)
    }

    fn deflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut piece = [0u8; 1024];
        loop {
            let (consumed, produced) = (self.0.total_in(), self.0.total_out());
            self.0
                .compress(input, &mut piece, DeflateFlush::SyncFlush)
                .map_err(|_| Error::Protocol("header compression"))?;
            input = &input[(self.0.total_in() - consumed) as usize..];
            let count = (self.0.total_out() - produced) as usize;
            out.extend_from_slice(&piece[..count]);
            // Room left over means that everything is flushed.
            if count < piece.len() && input.is_empty() {
                return Ok(out);
            }
        }
    }
}

/// Inflates the header blocks of one direction.
pub struct Decompressor(Inflate);

impl Default for Decompressor {
    fn default() -> Self {
        Self(Inflate::new(true, 15))
    }
}

impl Decompressor {
    /// The headers in `block`.
    pub fn headers(&mut self, block: &[u8]) -> Result<Headers, Error> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        let mut piece = [0u8; 4096];
        loop {
            let (consumed, produced) = (self.0.total_in(), self.0.total_out());
            let status = self.0.decompress(input, &mut piece, InflateFlush::SyncFlush);
            input = &input[(self.0.total_in() - consumed) as usize..];
            let count = (self.0.total_out() - produced) as usize;
            out.extend_from_slice(&piece[..count]);
            if out.len() > LIMIT {
                return Err(Error::Protocol("headers too large"));
            }
            match status {
                Err(InflateError::NeedDict { .. }) => {
                    self.0.set_dictionary(&dictionary()).map_err(|_| Error::Protocol("unknown header dictionary"))?;
                }
                Err(_) => return Err(Error::Protocol("malformed header compression")),
                Ok(Status::StreamEnd) => return Ok(out),
                Ok(_) if count < piece.len() && input.is_empty() => return Ok(out),
                Ok(Status::BufError) if count == 0 => return Err(Error::Protocol("truncated header compression")),
                Ok(_) => {}
            }
        }
    }
}

/// The name/value block: a count, then names and values each behind their length; values split at NUL.
fn parse(mut block: &[u8]) -> Result<Headers, Error> {
    let number = |block: &mut &[u8]| -> Result<usize, Error> {
        let (head, rest) = block.split_first_chunk::<4>().ok_or(Error::Protocol("truncated header block"))?;
        *block = rest;
        Ok(u32::from_be_bytes(*head) as usize)
    };
    let count = number(&mut block)?;
    let mut headers = Headers::default();
    for _ in 0..count {
        let mut text = || -> Result<String, Error> {
            let length = number(&mut block)?;
            if length > block.len() {
                return Err(Error::Protocol("truncated header block"));
            }
            let (head, rest) = block.split_at(length);
            block = rest;
            String::from_utf8(head.to_vec()).map_err(|_| Error::Protocol("headers are no UTF-8"))
        };
        let (name, value) = (text()?.to_ascii_lowercase(), text()?);
        headers.0.extend(value.split('\0').map(|v| (name.clone(), v.to_owned())));
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_is_spdy_3s() {
        let (mut a, mut b) = (1u32, 0u32);
        for byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((dictionary().len(), b << 16 | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_share_one_state() {
        let (mut compress, mut inflate) = (Compressor::new().unwrap(), Decompressor::default());
        for round in 0..100 {
            let id = round.to_string();
            let headers = Headers::of(&[("streamtype", "data"), ("port", "80"), ("requestid", &id), ("port", "81")]);
            let block = compress.block(&headers).unwrap();
            let want = Headers::of(&[("streamtype", "data"), ("port", "80"), ("port", "81"), ("requestid", &id)]);
            assert_eq!(inflate.headers(&block).unwrap(), want);
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut compress = Compressor::new().unwrap();
        let headers = Headers::of(&[("a", &"x".repeat(LIMIT + 1))]);
        let block = compress.block(&headers).unwrap();
        assert!(block.len() < 1000);
        assert!(matches!(Decompressor::default().headers(&block), Err(Error::Protocol("headers too large"))));
    }

    #[test]
    fn nonsense_is_an_error() {
        for block in [&b"\x00\x01\x02"[..], b"", &[0x78, 0xbb, 0xe3, 0xc6, 0xa7, 0xc2, 0xff, 0xff, 0xff]] {
            assert!(Decompressor::default().headers(block).is_err());
        }
    }
}
