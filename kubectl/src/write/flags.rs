//! Flags that several writing verbs take.

use serde_json::Value;

use crate::{
    failure::{Failure, plain},
    write::applied,
};

/// `--validate`.
#[derive(clap::Args, Clone, Debug)]
pub struct Validate {
    /// What becomes of unknown and repeated fields: strict (or true) refuses them, warn tells of them, ignore (or false) drops them
    #[arg(long, default_value = "strict", default_missing_value = "strict", num_args = 0..=1, require_equals = true)]
    validate: String,
}

impl Validate {
    /// The request's `fieldValidation`.
    ///
    /// # Errors
    /// No such directive.
    pub fn directive(&self) -> Result<&'static str, Failure> {
        match self.validate.as_str() {
            "strict" | "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok("Strict"),
            "warn" => Ok("Warn"),
            "ignore" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok("Ignore"),
            other => {
                let other = api::field::go_quote(other);
                Err(plain(format!(
                    "invalid - validate option {other}; must be one of: strict (or true), warn, ignore (or false)"
                )))
            }
        }
    }
}

/// `--save-config`.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct SaveConfig {
    /// Keep the object's configuration in its annotation, for a later apply
    #[arg(long)]
    save_config: bool,
}

impl SaveConfig {
    /// Whether it was asked for.
    pub fn asked(self) -> bool {
        self.save_config
    }

    /// Annotates the object with its own configuration if that was asked for, or if it has such an annotation already.
    pub fn annotate(self, object: &mut Value, encode: impl Fn(&Value) -> String) {
        if self.save_config || applied::original(object).is_some_and(|text| !text.is_empty()) {
            applied::annotate(object, encode);
        }
    }
}
