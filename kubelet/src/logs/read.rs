//! Reading a log for a client: the last lines, lines since a time, and everything that still comes, across rotations.

use std::{
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    time::SystemTime,
};

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use process::inotify::Watch;
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt, SeekFrom},
    sync::{broadcast, mpsc},
};

use super::{Line, parse};
use crate::runtime::Runtime;

/// Which of a container's outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Source {
    /// Both.
    #[default]
    All,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on until the container ends.
    pub follow: bool,
    /// Each line with its time.
    pub timestamps: bool,
    /// Only so many lines from the end.
    pub tail: Option<usize>,
    /// Only lines from then on.
    pub since: Option<Timestamp>,
    /// Only so many bytes.
    pub limit: Option<u64>,
    /// Only this output.
    pub source: Source,
}

/// How to ask whether the container still runs.
pub struct Running {
    /// The runtime.
    pub runtime: Runtime,
    /// The container.
    pub id: String,
}

impl Running {
    async fn still(&self) -> bool {
        let status = self.runtime.container_status(&self.id).await;
        status.is_ok_and(|s| s.state() == cri::v1::ContainerState::ContainerRunning)
    }
}

/// Pieces are handed on at this size.
const PIECE: usize = 32 * 1024;

/// Turns records into what the client sees.
struct Printer<'a> {
    options: &'a Options,
    left: Option<u64>,
    out: BytesMut,
    /// The record before was partial: this one goes on in the same line.
    within: bool,
    /// `since` has been reached; later lines are later.
    reached: bool,
}

impl Printer<'_> {
    fn print(&mut self, record: &[u8]) {
        let Some(Line { stamp, stderr, partial, text }) = parse(record) else { return };
        let wanted = match self.options.source {
            Source::All => true,
            Source::Stdout => !stderr,
            Source::Stderr => stderr,
        };
        if !wanted || !self.is_late_enough(stamp) {
            return;
        }
        if self.options.timestamps && !self.within {
            self.put(stamp);
            self.put(b" ");
        }
        self.put(text);
        if !partial {
            self.put(b"\n");
        }
        self.within = partial;
    }

    fn is_late_enough(&mut self, stamp: &[u8]) -> bool {
        if let Some(since) = self.options.since.filter(|_| !self.reached) {
            let at = std::str::from_utf8(stamp).ok().and_then(|s| s.parse::<Timestamp>().ok());
            self.reached = at.is_none_or(|at| at >= since);
            return self.reached;
        }
        true
    }

    fn put(&mut self, bytes: &[u8]) {
        let room = self.left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        self.out.put_slice(&bytes[..room]);
        if let Some(left) = &mut self.left {
            *left -= room as u64;
        }
    }

    fn is_full(&self) -> bool {
        self.left == Some(0)
    }
}

/// Where the last `lines` lines before `end` of a file begin. Records of one line (partial ones) count as one.
async fn tail_offset(file: &mut File, lines: usize, mut end: u64) -> io::Result<u64> {
    let mut found = 0;
    let mut block = vec![0; 16 * 1024];
    let mut first = true;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let length = usize::try_from(end - start).unwrap_or(block.len());
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..length]).await?;
        for index in (0..length).rev().filter(|i| block[*i] == b'\n') {
            // The newline that ends the file begins nothing.
            if std::mem::take(&mut first) && start + index as u64 + 1 == end {
                continue;
            }
            found += 1;
            if found == lines {
                return Ok(start + index as u64 + 1);
            }
        }
        first = false;
        end = start;
    }
    Ok(0)
}

/// A part of a log.
enum Part {
    /// A file as the runtime writes it.
    Plain(File),
    /// One that was compressed since; taken while it is read.
    Packed(Option<flate2::read::GzDecoder<std::fs::File>>),
}

/// A part of a log that is being read, and by what it is known again: its file, and when its last line was written.
struct Reading {
    part: Part,
    file: (u64, u64),
    modified: Option<SystemTime>,
}

impl Reading {
    async fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path).await?;
        let metadata = file.metadata().await?;
        let part = match super::rotate::is_packed(path) {
            true => Part::Packed(Some(flate2::read::GzDecoder::new(file.into_std().await))),
            false => Part::Plain(file),
        };
        Ok(Self { part, file: identity(&metadata), modified: metadata.modified().ok() })
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.part {
            Part::Plain(file) => file.read(buffer).await,
            Part::Packed(packed) => {
                let Some(mut decoder) = packed.take() else { return Ok(0) };
                let mut piece = vec![0; buffer.len()];
                let work = move || decoder.read(&mut piece).map(|read| (decoder, piece, read));
                let (decoder, piece, read) = tokio::task::spawn_blocking(work).await.map_err(io::Error::other)??;
                buffer[..read].copy_from_slice(&piece[..read]);
                *packed = Some(decoder);
                Ok(read)
            }
        }
    }

    /// When its last line was written.
    async fn modified(&self) -> Option<SystemTime> {
        match &self.part {
            Part::Plain(file) => file.metadata().await.ok()?.modified().ok(),
            Part::Packed(_) => self.modified,
        }
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Sends the log to `client` until it is over (or the client goes). `running` is set if the container may still write. Without
/// `follow` the log is over where it was when the reading began.
pub async fn stream(
    path: &Path,
    options: &Options,
    running: Option<Running>,
    mut changes: broadcast::Receiver<String>,
    client: &mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let follow = running.filter(|_| options.follow);
    // Watching begins before reading, so that nothing between the two is missed.
    let mut watch = match &follow {
        Some(_) => path.parent().map(Watch::new).transpose()?,
        None => None,
    };
    let mut file = Reading::open(path).await?;
    let mut left = None;
    if let Part::Plain(file) = &mut file.part {
        let end = file.seek(SeekFrom::End(0)).await?;
        let offset = match options.tail {
            Some(0) => end,
            Some(lines) => tail_offset(file, lines, end).await?,
            None => 0,
        };
        file.seek(SeekFrom::Start(offset)).await?;
        left = follow.is_none().then_some(end - offset);
    }
    let mut printer = Printer { options, left: options.limit, out: BytesMut::new(), within: false, reached: false };
    let mut pending = Vec::new();
    let mut buffer = vec![0; PIECE];
    let mut last_look = false;
    let mut next = None;
    loop {
        let room = left.map_or(PIECE, |left| usize::try_from(left).unwrap_or(PIECE).min(PIECE));
        let read = file.read(&mut buffer[..room]).await?;
        left = left.map(|left| left - read as u64);
        pending.extend_from_slice(&buffer[..read]);
        let mut used = 0;
        while let Some(length) = pending[used..].iter().position(|b| *b == b'\n') {
            printer.print(&pending[used..used + length]);
            used += length + 1;
        }
        pending.drain(..used);
        if !printer.out.is_empty() && (read == 0 || printer.out.len() >= PIECE || follow.is_some() || printer.is_full()) {
            let piece = printer.out.split().freeze();
            if client.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        if printer.is_full() {
            return Ok(());
        }
        if read > 0 {
            continue;
        }
        let (Some(follow), Some(watch)) = (&follow, &mut watch) else { return Ok(()) };
        if let Some(next) = next.take() {
            file = next;
            continue;
        }
        // The file may have been rotated away. What was written to it before there was a new one is read first.
        next = rotated(&file, path).await;
        if next.is_some() {
            continue;
        }
        if last_look {
            return Ok(());
        }
        last_look = !follow.still().await;
        if last_look {
            // What it wrote last may have come after the read.
            continue;
        }
        tokio::select! {
            changed = watch.changed() => drop(changed?),
            _ = changes.recv() => {}
            () = client.closed() => return Ok(()),
        }
    }
}

/// The part in which the log of `path` goes on after `file`, if that is not the newest. A slow reader may be several behind,
/// and what it reads may have been compressed, or removed, since it was opened.
async fn rotated(file: &Reading, path: &Path) -> Option<Reading> {
    let newest = Reading::open(path).await.ok()?;
    if newest.file == file.file {
        return None;
    }
    let modified = file.modified().await;
    // Rotated files are named by their time. If ours has been removed by now, so have all before it.
    let older = super::rotate::rotated(path).unwrap_or_default();
    let of = |old: &Path| std::fs::metadata(old).ok();
    let same = |old: &Path| of(old).is_some_and(|metadata| identity(&metadata) == file.file);
    let packed = |old: &Path| {
        super::rotate::is_packed(old)
            && modified.is_some()
            && of(old).is_some_and(|metadata| metadata.modified().ok() == modified)
    };
    let place = older.iter().position(|old| same(old)).or_else(|| older.iter().position(|old| packed(old)));
    match older.get(place.map_or(0, |place| place + 1)) {
        Some(next) => Reading::open(next).await.ok().or(Some(newest)),
        None => Some(newest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &str, options: Options) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, text).unwrap();
        let (send, mut receive) = mpsc::channel(100);
        let (_changes, changed) = broadcast::channel(1);
        stream(&path, &options, None, changed, &send).await.unwrap();
        drop(send);
        let mut out = String::new();
        while let Some(piece) = receive.recv().await {
            out.push_str(std::str::from_utf8(&piece.unwrap()).unwrap());
        }
        out
    }

    const LOG: &str = "2026-11-21T02:00:01Z stdout F one\n\
        2026-11-21T02:00:02Z stderr F two\n\
        2026-11-21T02:00:03Z stdout P thr\n\
        2026-11-21T02:00:03Z stdout F ee\n";

    #[tokio::test]
    async fn options() {
        let all = Options::default();
        assert_eq!(read(LOG, all.clone()).await, "one\ntwo\nthree\n");
        assert_eq!(read(LOG, Options { tail: Some(3), ..all.clone() }).await, "two\nthree\n");
        assert_eq!(read(LOG, Options { tail: Some(0), ..all.clone() }).await, "");
        assert_eq!(read(LOG, Options { tail: Some(100), ..all.clone() }).await, "one\ntwo\nthree\n");
        assert_eq!(read(LOG, Options { limit: Some(5), ..all.clone() }).await, "one\nt");
        assert_eq!(read(LOG, Options { source: Source::Stderr, ..all.clone() }).await, "two\n");
        let since = Some("2026-11-21T02:00:02Z".parse().unwrap());
        assert_eq!(read(LOG, Options { since, ..all.clone() }).await, "two\nthree\n");
        let stamped = read(LOG, Options { timestamps: true, tail: Some(2), ..all }).await;
        assert_eq!(stamped, "2026-11-21T02:00:03Z three\n");
    }

    #[tokio::test]
    async fn a_long_log_is_tailed_from_its_end() {
        let text: String = (0..5000).map(|i| format!("2026-11-21T02:00:01Z stdout F line {i}\n")).collect();
        let out = read(&text, Options { tail: Some(2000), ..Options::default() }).await;
        assert_eq!((out.lines().count(), out.lines().next()), (2000, Some("line 3000")));
    }

    #[tokio::test]
    async fn a_log_that_is_not_followed_ends_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let lines: String = (0..5000).map(|i| format!("2026-11-21T02:00:01Z stdout F line {i}\n")).collect();
        std::fs::write(&path, lines).unwrap();
        let (send, mut receive) = mpsc::channel(1);
        let (_changes, changed) = broadcast::channel(1);
        let of = path.clone();
        let options = Options { tail: Some(4000), ..Options::default() };
        let reader = tokio::spawn(async move { stream(&of, &options, None, changed, &send).await });
        let mut out = receive.recv().await.unwrap().unwrap().to_vec();
        let mut log = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut log, b"2026-11-21T02:00:02Z stdout F later\n").unwrap();
        while let Some(piece) = receive.recv().await {
            out.extend_from_slice(&piece.unwrap());
        }
        reader.await.unwrap().unwrap();
        let expected: String = (1000..5000).map(|i| format!("line {i}\n")).collect();
        assert!(String::from_utf8(out).unwrap() == expected);
    }

    #[tokio::test]
    async fn nothing_is_lost_or_doubled_across_rotations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let lines = |from: u32, to: u32| -> String {
            (from..to).map(|i| format!("2026-11-21T02:00:01Z stdout F line {i}\n")).collect()
        };
        std::fs::write(&path, lines(0, 10_000)).unwrap();
        let (send, mut receive) = mpsc::channel(1);
        let (_changes, changed) = broadcast::channel(1);
        let of = path.clone();
        // Nobody answers whether the container runs, so it is taken for ended when its log has been read.
        let runtime = Runtime::new(cri::Channel::connect("unix:///nowhere").unwrap());
        let running = Some(Running { runtime, id: String::new() });
        let options = Options { follow: true, ..Options::default() };
        let reader = tokio::spawn(async move { stream(&of, &options, running, changed, &send).await });
        // The reader has the first file open and waits for us.
        let mut out = receive.recv().await.unwrap().unwrap().to_vec();
        for round in 1..4 {
            let mut old = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
            std::fs::rename(&path, dir.path().join(format!("0.log.2026112{round}-020000"))).unwrap();
            std::io::Write::write_all(&mut old, lines(round * 10_000, round * 10_000 + 500).as_bytes()).unwrap();
            std::fs::write(&path, lines(round * 10_000 + 500, (round + 1) * 10_000)).unwrap();
            super::super::rotate::make_room(&path, 10).unwrap();
        }
        while let Some(piece) = receive.recv().await {
            out.extend_from_slice(&piece.unwrap());
        }
        reader.await.unwrap().unwrap();
        let expected: String = (0..40_000).map(|i| format!("line {i}\n")).collect();
        assert!(String::from_utf8(out).unwrap() == expected);
    }
}
