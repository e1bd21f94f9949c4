//! `kubectl cp`: tar here, tar in the container, and a session between them.
//!
//! What comes from a container is not trusted: names must stay below what was asked for, links are left out, and nothing is
//! written but plain files and directories below the destination.

use std::{
    io::{self, Read},
    path::Path,
    time::Duration,
};

use api::field::go_quote;
use serde_json::Value;
use tar::{Archive, Builder, EntryType, Header};
use tokio::{
    io::{DuplexStream, duplex, sink},
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_util::io::SyncIoBridge;

use super::exec::check_phase;
use crate::{
    client::{Call, Client},
    context::Context,
    describe::json::Json,
    failure::{Failure, go_io, plain},
    pods,
    remote::{Input, Program},
};

const BUFFER: usize = 64 << 10;

/// What `cp` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Source and destination; one of them [[NAMESPACE/]POD:]PATH.
    #[arg(value_name = "FILE-SPEC")]
    pub args: Vec<String>,
    /// Container name. If omitted, the kubectl.kubernetes.io/default-container annotation or the first container counts.
    #[arg(long, short = 'c')]
    pub container: Option<String>,
    /// Do not keep owners and permissions in the container.
    #[arg(long)]
    pub no_preserve: bool,
    /// How often a copy from a container that breaks off is resumed; negative is forever.
    #[arg(long, default_value_t = 0)]
    pub retries: i32,
}

/// A place: in a pod, or here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spec {
    namespace: String,
    pod: String,
    path: String,
}

impl Spec {
    fn parse(text: &str) -> Result<Self, Failure> {
        let wrong = || plain("filespec must match the canonical format: [[namespace/]pod:]file/path");
        let Some((pod, path)) = text.split_once(':') else {
            return Ok(Self { namespace: String::new(), pod: String::new(), path: without_slash(text) });
        };
        let path = without_slash(path).replace('\\', "/");
        match pod.split('/').collect::<Vec<_>>().as_slice() {
            [""] => Err(wrong()),
            [pod] => Ok(Self { namespace: String::new(), pod: (*pod).to_owned(), path }),
            [namespace, pod] => Ok(Self { namespace: (*namespace).to_owned(), pod: (*pod).to_owned(), path }),
            _ => Err(wrong()),
        }
    }
}

fn without_slash(path: &str) -> String {
    if path == "/" { path.to_owned() } else { path.strip_suffix('/').unwrap_or(path).to_owned() }
}

/// The shortest path that means the same, by its text alone.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

fn join(base: &str, name: &str) -> String {
    match (base, name) {
        ("", "") => String::new(),
        ("", path) | (path, "") => clean(path),
        (base, name) => clean(&format!("{base}/{name}")),
    }
}

/// What is before and behind a path's last slash.
fn split(path: &str) -> (String, String) {
    let path = clean(path);
    match path.rsplit_once('/') {
        Some(("", name)) => ("/".to_owned(), if name.is_empty() { "/".to_owned() } else { name.to_owned() }),
        Some((folder, name)) => (folder.to_owned(), name.to_owned()),
        None => (".".to_owned(), path),
    }
}

/// Makes a folder and those above it. The error is about the first of them that is something else, or cannot be made.
fn make_folder(path: &str) -> Result<(), (String, io::Error)> {
    let failed = |error| Err((path.to_owned(), error));
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return failed(io::Error::from_raw_os_error(nix::libc::ENOTDIR)),
        Err(_) => {}
    }
    if let Some((above, _)) = path.trim_end_matches('/').rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
        make_folder(above)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if !Path::new(path).is_dir() => failed(error),
        _ => Ok(()),
    }
}

/// A path without leading `../`, slashes and lone dots.
fn without_shortcuts(path: &str) -> String {
    let mut path = path;
    while let Some(rest) = path.strip_prefix("../") {
        path = rest;
    }
    match path {
        "." | ".." => String::new(),
        path => path.strip_prefix('/').unwrap_or(path).to_owned(),
    }
}

/// Copies.
///
/// # Errors
/// If that fails.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    cx.namespace()?;
    cx.client()?;
    let [from, to] = args.args.as_slice() else { return Err(plain("source and destination are required")) };
    let (from, to) = (Spec::parse(from)?, Spec::parse(to)?);
    if !from.pod.is_empty() && !to.pod.is_empty() {
        return Err(plain("one of src or dest must be a local file specification"));
    }
    if from.path.is_empty() || to.path.is_empty() {
        return Err(plain("filepath can not be empty"));
    }
    match (from.pod.is_empty(), to.pod.is_empty()) {
        (false, _) => from_pod(&args, cx, from, to).await,
        (true, false) => to_pod(&args, cx, from, to).await,
        (true, true) => Err(plain("one of src or dest must be a remote file specification")),
    }
}

/// A pod and the container in it.
struct Place {
    client: Client,
    pod: Value,
    container: String,
    /// What there is to say of the choice.
    said: Option<String>,
}

impl Place {
    async fn find(args: &Args, cx: &Context, spec: &Spec) -> Result<Self, Failure> {
        let namespace = if spec.namespace.is_empty() { cx.namespace()? } else { spec.namespace.clone() };
        let client = cx.client()?.clone();
        let pod = client.json(Call::get(format!("/api/v1/namespaces/{namespace}/pods/{}", spec.pod))).await?;
        check_phase(&pod, "exec into")?;
        let named = args.container.clone().filter(|name| !name.is_empty());
        let chosen = pods::container(&pod, None, true)?.text("name").to_owned();
        let first = pod.items("spec.containers").first().map_or("", |c| c.text("name"));
        let by_default = named.is_none() && chosen == first && pods::annotated(&pod).is_none_or(|name| name != chosen);
        let said = if by_default { pods::defaulted(&pod) } else { None };
        Ok(Self { client, container: named.unwrap_or(chosen), pod, said })
    }

    fn program<'a>(&'a self, command: &'a [String]) -> Program<'a> {
        Program { pod: &self.pod, subresource: "exec", container: &self.container, command, tty: false }
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

async fn to_pod(args: &Args, cx: &Context, from: Spec, to: Spec) -> Result<(), Failure> {
    if std::fs::metadata(&from.path).is_err() {
        return Err(plain(format!("{} doesn't exist in local filesystem", from.path)));
    }
    let place = Place::find(args, cx, &to).await?;
    let test = words(&["test", "-d", &to.path]);
    let program = place.program(&test);
    let tested = program.run(&place.client, None, sink(), sink(), &[]);
    let is_folder = match tokio::time::timeout(Duration::from_secs(30), tested).await {
        Ok(tested) => tested.is_ok(),
        Err(_) => return Err(plain("context deadline exceeded")),
    };
    let target = if is_folder { join(&to.path, &split(&from.path).1) } else { to.path.clone() };
    let (folder, name) = split(&target);
    let mut command = match args.no_preserve {
        true => words(&["tar", "--no-same-permissions", "--no-same-owner", "-xmf", "-"]),
        false => words(&["tar", "-xmf", "-"]),
    };
    command.extend(words(&["-C", &folder]));
    let program = place.program(&command);
    if let Some(said) = &place.said {
        eprintln!("{said}");
    }
    let (reader, writer) = duplex(BUFFER);
    let handle = Handle::current();
    let packing = tokio::task::spawn_blocking(move || {
        let mut builder = Builder::new(SyncIoBridge::new_with_handle(writer, handle));
        pack(&mut builder, Path::new(&from.path), &name).and_then(|()| builder.finish())
    });
    let input: Input = Box::new(reader);
    let done = program.run(&place.client, Some(input), tokio::io::stdout(), tokio::io::stderr(), &[]).await;
    done?;
    match packing.await {
        Ok(Err(error)) => Err(plain(error.to_string())),
        _ => Ok(()),
    }
}

/// Packs a file, or a directory with everything below it, under another name. Links stay links.
fn pack<W: io::Write>(builder: &mut Builder<W>, from: &Path, name: &str) -> io::Result<()> {
    let metadata = std::fs::symlink_metadata(from)?;
    let mut header = Header::new_gnu();
    header.set_metadata(&metadata);
    if metadata.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        if names.is_empty() {
            header.set_size(0);
            return builder.append_data(&mut header, name, io::empty());
        }
        return names
            .iter()
            .try_for_each(|entry| pack(builder, &from.join(entry), &format!("{name}/{}", entry.to_string_lossy())));
    }
    if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        return builder.append_link(&mut header, name, std::fs::read_link(from)?);
    }
    builder.append_data(&mut header, name, std::fs::File::open(from)?)
}

/// A session that is wanted: from which byte on, where its bytes go, and whom to tell that it ended well.
type Session = (u64, DuplexStream, oneshot::Sender<()>);

/// What comes from the container, in as many sessions as it takes.
struct Source {
    current: Option<(SyncIoBridge<DuplexStream>, Option<oneshot::Receiver<()>>)>,
    sessions: mpsc::Sender<Session>,
    handle: Handle,
    read: u64,
    retries: i32,
    most: i32,
}

impl Source {
    fn begin(&mut self) -> io::Result<()> {
        let (reader, writer) = duplex(BUFFER);
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let (well, ended) = oneshot::channel();
        self.sessions.blocking_send((self.read + u64::from(self.read > 0), writer, well)).map_err(gone)?;
        self.current = Some((SyncIoBridge::new_with_handle(reader, self.handle.clone()), Some(ended)));
        Ok(())
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let Some((current, ended)) = &mut self.current else {
                self.begin()?;
                continue;
            };
            let count = current.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                self.read += count as u64;
                return Ok(count);
            }
            // Of a session that failed somebody else tells.
            if let Some(ended) = ended.take() {
                ended.blocking_recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            }
            if self.most >= 0 && self.retries >= self.most {
                println!("Dropping out copy after {} retries", self.retries);
                return Ok(0);
            }
            self.retries += 1;
            println!("Resuming copy at {} bytes, retry {}/{}", self.read, self.retries, self.most);
            self.begin()?;
        }
    }
}

async fn from_pod(args: &Args, cx: &Context, from: Spec, to: Spec) -> Result<(), Failure> {
    let place = Place::find(args, cx, &from).await?;
    // Upstream writes what the far side has to say where files would go.
    if let Some(said) = &place.said {
        println!("{said}");
    }
    let command = |from_byte: u64| match args.retries {
        0 => words(&["tar", "cf", "-", &from.path]),
        _ => {
            let path = from.path.replace('\'', "'\\''");
            words(&["sh", "-c", &format!("tar cf - '{path}' | tail -c+{from_byte}")])
        }
    };
    let (sessions, mut wanted) = mpsc::channel(1);
    let source = Source { current: None, sessions, handle: Handle::current(), read: 0, retries: 0, most: args.retries };
    let copied = from.clone();
    let mut unpacking = tokio::task::spawn_blocking(move || unpack(source, &copied, &to.path));
    loop {
        let (from_byte, writer, well) = tokio::select! {
            done = &mut unpacking => return done.unwrap_or_else(|error| Err(plain(error.to_string()))),
            Some(session) = wanted.recv() => session,
        };
        let command = command(from_byte);
        let program = place.program(&command);
        tokio::select! {
            done = &mut unpacking => return done.unwrap_or_else(|error| Err(plain(error.to_string()))),
            done = program.run(&place.client, None, writer, tokio::io::stdout(), &[]) => done?,
        }
        let _ = well.send(());
    }
}

/// Unpacks below a destination. Messages are upstream's.
fn unpack(source: impl Read, from: &Spec, to: &str) -> Result<(), Failure> {
    let prefix = without_shortcuts(&clean(from.path.trim_start_matches(['/', '\\'])));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => plain("unexpected EOF"),
        _ => plain(error.to_string()),
    };
    let to_do = |what: &str, path: &str, error: io::Error| plain(format!("{what} {path}: {}", go_io(&error)));
    let mut told_how = false;
    let mut archive = Archive::new(source);
    for entry in archive.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(rest) = name.strip_prefix(&prefix) else { return Err(plain("tar contents corrupted")) };
        let rest = without_slash(rest).replace('\\', "/");
        let target = join(to, &rest);
        if !is_below(to, &target) {
            eprintln!("warning: file {} is outside target destination, skipping", go_quote(&target));
            continue;
        }
        let folder = split(&target).0;
        make_folder(&folder).map_err(|(at, error)| to_do("mkdir", &at, error))?;
        match entry.header().entry_type() {
            EntryType::Directory => make_folder(&target).map_err(|(at, error)| to_do("mkdir", &at, error))?,
            EntryType::Symlink => {
                let link = entry.link_name_bytes().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                let skipped =
                    format!("warning: skipping symlink: {} -> {}", go_quote(&target), go_quote(&link.unwrap_or_default()));
                let [namespace, pod, path] = [&from.namespace, &from.pod, &from.path].map(|text| go_quote(text));
                match std::mem::replace(&mut told_how, true) {
                    true => eprintln!("{skipped}"),
                    false => eprintln!(
                        "{skipped} (consider using \"kubectl exec -n {namespace} {pod} -- tar cf - {path} | tar xf -\")"
                    ),
                }
            }
            _ => {
                let mut file = std::fs::File::create(&target).map_err(|error| to_do("open", &target, error))?;
                io::copy(&mut entry, &mut file).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// Whether a path is a base or below it, by their texts.
fn is_below(base: &str, target: &str) -> bool {
    let (base, target) = (clean(base), clean(target));
    match base.as_str() {
        "." => !target.starts_with('/') && target != ".." && !target.starts_with("../"),
        base => target == *base || target.starts_with(&format!("{}/", base.trim_end_matches('/'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let spec = |namespace: &str, pod: &str, path: &str| Spec {
            namespace: namespace.into(),
            pod: pod.into(),
            path: path.into(),
        };
        let cases = [
            ("a/", Some(spec("", "", "a"))),
            ("p:/", Some(spec("", "p", "/"))),
            ("n/p:x\\y", Some(spec("n", "p", "x/y"))),
            (":a", None),
            ("a/b/c:d", None),
        ];
        for (text, want) in cases {
            assert_eq!(Spec::parse(text).ok(), want, "{text}");
        }
    }

    #[test]
    fn paths_are_cleaned() {
        for (given, want) in [("/a/../../b", "/b"), ("a/./b//c", "a/b/c"), ("..", ".."), ("a/..", "."), ("/", "/")] {
            assert_eq!(clean(given), want);
        }
        assert_eq!((split("/a"), split("a")), (("/".into(), "a".into()), (".".into(), "a".into())));
    }

    #[test]
    fn nothing_leaves_the_destination() {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Builder::new(Vec::new());
        let mut add = |name: &str, kind: EntryType, content: &[u8]| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Past the builder, which refuses such names.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_link_name("/etc/passwd").unwrap();
            header.set_cksum();
            builder.append(&header, content).unwrap();
        };
        add("tmp/x/good", EntryType::Regular, b"good");
        add("tmp/x/../../../evil", EntryType::Regular, b"evil");
        add("tmp/x/link", EntryType::Symlink, b"");
        let archive = builder.into_inner().unwrap();
        let target = folder.path().join("to");
        let from = Spec::parse("p:/tmp/x").unwrap();
        unpack(archive.as_slice(), &from, &target.to_string_lossy()).unwrap();
        let found: Vec<_> = std::fs::read_dir(&target).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!((found, folder.path().read_dir().unwrap().count()), (vec!["good".into()], 1));
        assert_eq!(
            unpack(archive.as_slice(), &Spec::parse("p:/var").unwrap(), "x").unwrap_err().message(),
            "tar contents corrupted"
        );
    }
}
