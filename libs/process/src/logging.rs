//! Logs in klog's line format (`I1121 02:12:34.123456    4711 knarr_kubelet::pods] message key="value"`) or as JSON, to
//! standard error or a file. One subscriber a process: in-process components tell themselves apart by their module path,
//! which stands where klog prints the source file.

use std::{fmt, fs, io, path::Path, sync::Arc};

use tracing::{Event, Level, Subscriber, field};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, writer::BoxMakeWriter},
    registry::LookupSpan,
};

use crate::flags::LogFlags;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The file could not be opened.
    #[error("open the log file {path}")]
    Open {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A subscriber is there already.
    #[error("logging is set up already")]
    Twice,
}

/// Which events pass at a verbosity. `KNARR_LOG` (tracing's directive syntax) replaces it whole.
pub fn directives(verbosity: u8) -> &'static str {
    match verbosity {
        0..=3 => "info",
        4..=5 => "info,knarr=debug,kubectl=debug",
        6..=7 => "info,knarr=trace,kubectl=trace,kube=debug,kube_client=debug",
        _ => "debug,knarr=trace,kubectl=trace",
    }
}

fn filter(verbosity: u8) -> EnvFilter {
    // Directives match by prefix of the module path, so `knarr` covers knarr_apiserver and its kin.
    std::env::var("KNARR_LOG")
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(directives(verbosity)))
}

fn open(path: &Path) -> Result<fs::File, LogError> {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(path)
        .map_err(|source| LogError::Open { path: path.display().to_string(), source })
}

/// Installs the process' subscriber. Panics are logged, too (and still abort their task only).
pub fn init(flags: &LogFlags) -> Result<(), LogError> {
    let writer = match &flags.file {
        Some(path) => {
            let file = Arc::new(open(path)?);
            BoxMakeWriter::new(move || Careless(file.clone()))
        }
        None => BoxMakeWriter::new(|| Careless(std::io::stderr())),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter(flags.verbosity)).with_writer(writer).with_ansi(false);
    let installed = if flags.format == "json" {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.event_format(Klog).try_init()
    };
    installed.map_err(|_| LogError::Twice)?;
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let text = payload
            .downcast_ref::<&str>()
            .map(|s| (*s).to_owned())
            .or_else(|| payload.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        tracing::error!(place, "Observed a panic: {text}");
    }));
    Ok(())
}

/// Loses what cannot be written. A full disk under the log must cost its lines and nothing else: the library would tell of it on
/// standard error, which may be the same file, and panic there, in whatever thread had something to say.
struct Careless<W>(W);

impl<W: io::Write> io::Write for Careless<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(bytes).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

struct Klog;

fn severity(level: Level) -> char {
    match level {
        Level::ERROR => 'E',
        Level::WARN => 'W',
        _ => 'I',
    }
}

/// klog's structured tail: the message first, then ` key="value"` pairs, strings quoted.
#[derive(Default)]
struct Line {
    message: String,
    pairs: String,
}

impl Line {
    fn add(&mut self, field: &field::Field, value: fmt::Arguments<'_>, quoted: bool) {
        use fmt::Write;
        // Writing to a String cannot fail.
        let _ = match (field.name(), quoted) {
            ("message", _) => write!(self.message, "{value}"),
            (name, true) => write!(self.pairs, " {name}={:?}", value.to_string()),
            (name, false) => write!(self.pairs, " {name}={value}"),
        };
    }
}

impl field::Visit for Line {
    fn record_debug(&mut self, field: &field::Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        let quoted = !text.starts_with(['"', '[', '{']) && text.parse::<f64>().is_err();
        self.add(field, format_args!("{text}"), quoted);
    }
    fn record_str(&mut self, field: &field::Field, value: &str) {
        self.add(field, format_args!("{value}"), true);
    }
    fn record_u64(&mut self, field: &field::Field, value: u64) {
        self.add(field, format_args!("{value}"), false);
    }
    fn record_i64(&mut self, field: &field::Field, value: i64) {
        self.add(field, format_args!("{value}"), false);
    }
    fn record_bool(&mut self, field: &field::Field, value: bool) {
        self.add(field, format_args!("{value}"), false);
    }
    fn record_error(&mut self, field: &field::Field, value: &(dyn std::error::Error + 'static)) {
        // A chain reads outermost first: each layer's Display tells that layer only.
        let mut text = value.to_string();
        let mut next = value.source();
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        self.add(field, format_args!("{text}"), true);
    }
}

impl<S, N> FormatEvent<S, N> for Klog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _ctx: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let meta = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        let now = jiff::Zoned::now();
        writeln!(
            out,
            "{}{} {:>7} {}] {}{}",
            severity(*meta.level()),
            now.strftime("%m%d %H:%M:%S.%6f"),
            std::process::id(),
            meta.target(),
            line.message,
            line.pairs
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[test]
    fn a_full_disk_loses_lines_and_nothing_else() {
        use std::io::Write;
        let mut full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert_eq!(full.write(b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        Careless(full).write_all(b"a line\n").unwrap();
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Buffer {
        type Writer = Buffer;
        fn make_writer(&'a self) -> Buffer {
            self.clone()
        }
    }

    #[test]
    fn lines_look_like_klog() {
        let buffer = Buffer::default();
        let subscriber = tracing_subscriber::fmt().event_format(Klog).with_writer(buffer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(pod = "default/a", count = 3, ok = true, "Went \"away\"");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        let (head, tail) = text.split_once("] ").unwrap();
        assert!(head.starts_with('W') && head.ends_with("process::logging::tests"), "{head}");
        assert_eq!(tail, "Went \"away\" pod=\"default/a\" count=3 ok=true\n");
    }
}
