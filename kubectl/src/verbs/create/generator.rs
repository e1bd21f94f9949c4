//! What all commands share that make an object from their arguments.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    context::Context,
    discovery::Mapping,
    failure::{Failure, plain, usage},
    output::{DryRun, DryRunArgs, OutputArgs},
    typed,
    write::{Helper, SaveConfig, Show, Validate, applied},
};

/// Flags of every such command.
#[derive(clap::Args, Debug)]
pub struct Made {
    #[command(flatten)]
    print: OutputArgs,
    #[command(flatten)]
    dry_run: DryRunArgs,
    #[command(flatten)]
    validate: Validate,
    #[command(flatten)]
    save_config: SaveConfig,
    /// Name of the manager that owns the fields
    #[arg(long, default_value = "kubectl-create")]
    field_manager: String,
}

/// An object and how a failure to create it begins; without a beginning the server's error is shown as it is.
pub struct Generated<'a> {
    /// The object.
    pub object: Value,
    /// `failed to create deployment: `.
    pub failing: &'a str,
}

impl Made {
    /// Reads the one name, what follows it after `--`, and the flags of every such command. Upstream does so before it looks at
    /// what the object is to be.
    ///
    /// # Errors
    /// Not one name, bad flags, or a configuration that cannot be used.
    pub fn begin<'a>(&'a self, cx: &Context, command: &str, arguments: &'a [String]) -> Result<Making<'a>, Failure> {
        let (name, command) = one_name(cx, command, arguments)?;
        cx.client()?;
        let dry_run = self.dry_run.strategy()?;
        let show = Show::new(&self.print, "created", dry_run)?;
        Ok(Making { name, command, flags: self, dry_run, show, validation: self.validate.directive()? })
    }
}

/// An object that is about to be made.
pub struct Making<'a> {
    /// Its name, which may be empty.
    pub name: &'a str,
    /// What follows the name after `--`.
    pub command: &'a [String],
    flags: &'a Made,
    dry_run: DryRun,
    show: Show,
    validation: &'static str,
}

impl Making<'_> {
    /// Creates the object, or only prints it.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn create(&self, cx: &Context, generated: Generated<'_>) -> Result<(), Failure> {
        let mut object = typed::complete(generated.object);
        // Upstream's services take the flag and do nothing with it.
        if object["kind"] != "Service" {
            self.flags.save_config.annotate(&mut object, applied::typed_text);
        }
        if self.dry_run != DryRun::Client {
            object = self.send(cx, &object).await.map_err(|failure| match generated.failing {
                "" => failure,
                failing => plain(format!("{failing}{}", failure.message())),
            })?;
        }
        self.show.typed(&object)
    }

    async fn send(&self, cx: &Context, object: &Value) -> Result<Value, Failure> {
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let mapping = Arc::new(Mapping::guessed(text("apiVersion"), text("kind")));
        let namespace = if mapping.namespaced { cx.namespace()? } else { String::new() };
        let helper = Helper::new(cx, &mapping).dry_run(self.dry_run).manager(&self.flags.field_manager);
        helper.validation(self.validation).create(&namespace, object).await
    }
}

/// The one name given, and what follows it after `--`.
///
/// # Errors
/// Not one name.
pub fn one_name<'a>(cx: &Context, command: &str, arguments: &'a [String]) -> Result<(&'a str, &'a [String]), Failure> {
    let names = cx.dash().unwrap_or(arguments.len());
    match arguments.split_first() {
        Some((name, rest)) if names == 1 => Ok((name, rest)),
        _ => Err(usage(&format!("create {command}"), format!("exactly one NAME is required, got {names}"))),
    }
}

/// The object in the namespace that the command line names, if it names one.
pub fn with_namespace(mut object: Value, cx: &Context) -> Value {
    if let Some(namespace) = cx.explicit_namespace() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    object
}

/// Ten characters that stand for the contents of a ConfigMap or Secret, as upstream's hash has them.
pub fn hash_suffix(contents: &Value) -> String {
    let digest = Sha256::digest(typed::sorted(contents));
    let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
    let spared = |c| match c {
        '0' => 'g',
        '1' => 'h',
        '3' => 'k',
        'a' => 'm',
        'e' => 't',
        c => c,
    };
    hex.chars().map(spared).collect()
}
