//! What is kept about a pod: a file each, there whole or not at all, from before its first plugin runs until its last DEL has
//! succeeded.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Error, Result};

/// A pod that is, or may be, connected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The list that it was connected with.
    pub list: Value,
    /// Its interface.
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: String,
    /// What plugins that declare a capability are told, by capability.
    pub capabilities: Map<String, Value>,
    /// What the last plugin gave; absent if ADD was not finished.
    pub result: Option<Value>,
    /// Lines of the runtime's own.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A folder of records.
#[derive(Clone, Debug)]
pub struct Records(PathBuf);

impl Records {
    /// The records in `folder`, which is made with the first of them.
    pub fn new(folder: PathBuf) -> Self {
        Self(folder)
    }

    /// Writes one.
    pub fn write(&self, pod: &str, record: &Record) -> Result<()> {
        let path = self.path(pod);
        let aside = path.with_extension("new");
        let put = || {
            fs::create_dir_all(&self.0)?;
            fs::write(&aside, serde_json::to_vec(record)?)?;
            fs::rename(&aside, &path)
        };
        put().map_err(Error::system(format!("write {}", path.display())))
    }

    /// Reads one. One that a power cut has left broken reads as empty: that there was a pod is known still.
    pub fn read(&self, pod: &str) -> Result<Option<Record>> {
        let path = self.path(pod);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::system(format!("read {}", path.display())))?,
        };
        Ok(Some(serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Removes one; an absent one is fine.
    pub fn remove(&self, pod: &str) -> Result<()> {
        let path = self.path(pod);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::system(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Whose records there are.
    pub fn pods(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut pods: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
        pods.sort();
        pods
    }

    /// Whether there is a record.
    pub fn has(&self, pod: &str) -> bool {
        Path::exists(&self.path(pod))
    }

    fn path(&self, pod: &str) -> PathBuf {
        self.0.join(format!("{pod}.json"))
    }
}
