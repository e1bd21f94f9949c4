//! What ConfigMaps and Secrets are filled from: literals, files, directories and files of environment variables.

use std::{fs, path::Path};

use api::names;

use crate::failure::{Failure, file_error, go_io, plain};

/// Where the entries come from.
#[derive(clap::Args, Debug, Default)]
pub struct Sources {
    /// File, or KEY=FILE, or a directory whose files become entries.
    #[arg(long = "from-file", value_delimiter = ',')]
    pub files: Vec<String>,
    /// KEY=VALUE.
    #[arg(long = "from-literal")]
    pub literals: Vec<String>,
    /// File with KEY=VALUE lines, an entry each.
    #[arg(long = "from-env-file", value_delimiter = ',')]
    pub env_files: Vec<String>,
}

/// An entry and where it came from: ConfigMaps keep files that are no text apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
}

impl Sources {
    /// Environment files go with nothing else.
    pub fn validate(&self) -> Result<(), Failure> {
        if self.env_files.is_empty() || (self.files.is_empty() && self.literals.is_empty()) {
            return Ok(());
        }
        Err(plain("from-env-file cannot be combined with from-file or from-literal"))
    }

    /// The entries of literals.
    pub fn of_literals(&self) -> Result<Vec<Entry>, Failure> {
        self.literals.iter().map(|source| literal(source)).collect()
    }

    /// The entries of environment files. `kind` is said where one is a directory.
    pub fn of_env_files(&self, kind: &str) -> Result<Vec<Entry>, Failure> {
        let mut entries = Vec::new();
        for path in &self.env_files {
            let meta = fs::metadata(path).map_err(|e| plain(format!("error reading {path}: {}", go_io(&e))))?;
            if meta.is_dir() {
                return Err(plain(format!("env {kind} file cannot be a directory")));
            }
            let bytes = fs::read(path).map_err(|e| file_error("open", path, &e))?;
            entries.extend(env_file(path, &bytes, |name| std::env::var(name).unwrap_or_default())?);
        }
        Ok(entries)
    }
}

/// The entries of `--from-file` sources.
pub fn from_files(sources: &[String]) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    let mut add = |key: String, path: &Path| {
        let value = fs::read(path).map_err(|e| file_error("open", path.display(), &e))?;
        entries.push(Entry { key, value });
        Ok::<_, Failure>(())
    };
    for source in sources {
        let (key, path) = file_source(source)?;
        let meta = fs::metadata(&path).map_err(|e| plain(format!("error reading {path}: {}", go_io(&e))))?;
        if !meta.is_dir() {
            add(key, Path::new(&path))?;
            continue;
        }
        if source.contains('=') {
            return Err(plain("cannot give a key name for a directory path"));
        }
        let listing =
            |e: std::io::Error| plain(format!("error listing files in {path}: {}", file_error("open", &path, &e).message()));
        let mut files: Vec<fs::DirEntry> =
            fs::read_dir(&path).map_err(listing)?.collect::<Result<_, _>>().map_err(listing)?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files.iter().filter(|f| f.file_type().is_ok_and(|t| t.is_file())) {
            add(file.file_name().to_string_lossy().into_owned(), &file.path())?;
        }
    }
    Ok(entries)
}

fn literal(source: &str) -> Result<Entry, Failure> {
    match source.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok(Entry { key: key.to_owned(), value: value.as_bytes().to_vec() }),
        _ => Err(plain(format!("invalid literal source {source}, expected key=value"))),
    }
}

/// `FILE` or `KEY=FILE` as key and path.
fn file_source(source: &str) -> Result<(String, String), Failure> {
    match source.matches('=').count() {
        0 => {
            let base = source.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let base = if base.is_empty() { if source.is_empty() { "." } else { "/" } } else { base };
            Ok((base.to_owned(), source.to_owned()))
        }
        1 => match source.split_once('=').unwrap_or_default() {
            ("", path) => Err(plain(format!("key name for file path {path} missing"))),
            (key, "") => Err(plain(format!("file path for key name {key} missing"))),
            (key, path) => Ok((key.to_owned(), path.to_owned())),
        },
        _ => Err(plain("key names or file paths cannot contain '='")),
    }
}

/// A line is empty, a comment, `KEY=VALUE`, or `KEY` whose value is the environment's.
fn env_file(path: &str, bytes: &[u8], environment: impl Fn(&str) -> String) -> Result<Vec<Entry>, Failure> {
    let mut entries = Vec::new();
    for (number, line) in bytes.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = if number == 0 { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) } else { line };
        let Ok(line) = std::str::from_utf8(line) else {
            let bytes = line.iter().map(u8::to_string).collect::<Vec<_>>().join(" ");
            return Err(plain(format!("env file {path} contains invalid utf8 bytes at line {}: [{bytes}]", number + 1)));
        };
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            None => (line, environment(line)),
        };
        let problems = names::strict_env_var_name(key);
        if !problems.is_empty() {
            return Err(plain(format!("{} is not a valid key name: {}", api::field::go_quote(key), problems.join(";"))));
        }
        entries.push(Entry { key: key.to_owned(), value: value.into_bytes() });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, value: &str) -> Entry {
        Entry { key: key.to_owned(), value: value.as_bytes().to_vec() }
    }

    #[test]
    fn environment_files_have_comments_and_bare_names() {
        let text = b"\xef\xbb\xbfA=b=c\n\n# no\n  B=\nHOME\n";
        assert_eq!(
            env_file("f", text, |name| format!("<{name}>")).unwrap(),
            [entry("A", "b=c"), entry("B", ""), entry("HOME", "<HOME>")]
        );
    }

    #[test]
    fn sources_are_split_at_one_sign() {
        assert_eq!(literal("a=b=c").unwrap(), entry("a", "b=c"));
        let messages: Vec<String> = ["=b", "a=", "a=b=c"].iter().map(|s| file_source(s).unwrap_err().message()).collect();
        assert_eq!(
            messages,
            [
                "key name for file path b missing",
                "file path for key name a missing",
                "key names or file paths cannot contain '='"
            ]
        );
        assert_eq!(file_source("x/y.txt").unwrap(), ("y.txt".to_owned(), "x/y.txt".to_owned()));
    }
}
