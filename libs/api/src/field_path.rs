//! Paths to fields, built on the stack while validating and written out only where a rule is broken.

use std::fmt;

use serde::Serialize;

use crate::{field::FieldErrors, quoted::Shape};

/// A path such as `spec.containers[0].resources.limits[cpu]`: a step and where it starts from.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// A path of its own; `""` is the object itself.
    pub const fn root(name: &'a str) -> Self {
        Self { parent: None, step: Step::Child(name) }
    }

    /// `self.name`
    pub fn child(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Child(name) }
    }

    /// `self[index]`
    pub fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }

    /// `self[key]`
    pub fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    fn is_empty(&self) -> bool {
        self.parent.is_none() && matches!(self.step, Step::Child(""))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.filter(|parent| !parent.is_empty());
        if let Some(parent) = parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Child(name) if parent.is_some() => write!(f, ".{name}"),
            Step::Child(name) => f.write_str(name),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Key(key) => write!(f, "[{key}]"),
        }
    }
}

impl From<Path<'_>> for String {
    fn from(path: Path<'_>) -> Self {
        path.to_string()
    }
}

impl From<&Path<'_>> for String {
    fn from(path: &Path<'_>) -> Self {
        path.to_string()
    }
}

/// Rules that recur.
impl FieldErrors {
    /// `Invalid value` once for each message.
    pub fn each(&mut self, path: &Path, value: &(impl Serialize + ?Sized), messages: Vec<String>) {
        for message in messages {
            self.invalid(path, &value, message);
        }
    }

    /// The value, if there is one, must be among the supported ones.
    pub fn one_of(&mut self, path: &Path, value: Option<&str>, supported: &[&str]) {
        if let Some(value) = value.filter(|value| !supported.contains(value)) {
            self.not_supported(path, &value, supported);
        }
    }

    /// There must be a value, among the supported ones.
    pub fn required_one_of(&mut self, path: &Path, value: Option<&str>, supported: &[&str]) {
        match value {
            None | Some("") => self.required(path, ""),
            value => self.one_of(path, value, supported),
        }
    }

    /// The text must not be empty.
    pub fn non_empty(&mut self, path: &Path, value: &str) {
        if value.is_empty() {
            self.required(path, "");
        }
    }

    /// `must be greater than or equal to 0`
    pub fn non_negative(&mut self, path: &Path, value: Option<impl Into<i64>>) {
        if let Some(value) = value.map(Into::into).filter(|value| *value < 0) {
            self.invalid(path, &value, NEGATIVE);
        }
    }

    /// `field is immutable`
    pub fn immutable<T: PartialEq + Serialize>(&mut self, path: &Path, new: &T, old: &T) {
        if new != old {
            self.invalid(path, new, IMMUTABLE);
        }
    }

    /// [`Self::immutable`] of an object, or `null`.
    pub fn immutable_object<T: PartialEq + Serialize>(
        &mut self,
        path: &Path,
        new: Option<&T>,
        old: Option<&T>,
        shape: &'static Shape,
    ) {
        if new != old {
            self.invalid(path, &shape.quote(&new), IMMUTABLE);
        }
    }
}

const IMMUTABLE: &str = "field is immutable";

/// Upstream's words for a number below zero.
pub const NEGATIVE: &str = "must be greater than or equal to 0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_upstream_writes_them() {
        let spec = Path::root("spec");
        let containers = spec.child("containers");
        let first = containers.index(0);
        let limits = first.child("limits");
        assert_eq!(String::from(limits.key("cpu")), "spec.containers[0].limits[cpu]");
        assert_eq!(String::from(Path::root("").child("metadata")), "metadata");
    }
}
