//! `kubectl config`: looks at kubeconfig files and changes them where things are written.

mod edit;
mod property;
mod view;

use clap::Subcommand;

use super::create::no_command;
use crate::{
    context::Context,
    failure::{Failure, usage},
    output::OutputArgs,
};

/// What `config` takes.
#[derive(clap::Args, Debug)]
#[command(subcommand_required = false)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What can be done.
#[derive(Subcommand, Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum Command {
    /// Display the current-context
    CurrentContext {
        /// Nothing.
        #[arg(hide = true)]
        args: Vec<String>,
    },
    /// Delete the specified cluster from the kubeconfig
    DeleteCluster {
        /// The name.
        args: Vec<String>,
    },
    /// Delete the specified context from the kubeconfig
    DeleteContext {
        /// The name.
        args: Vec<String>,
    },
    /// Delete the specified user from the kubeconfig
    DeleteUser {
        /// The name.
        args: Vec<String>,
    },
    /// Display clusters defined in the kubeconfig
    GetClusters {
        /// Nothing.
        #[arg(hide = true)]
        args: Vec<String>,
    },
    /// Describe one or many contexts
    GetContexts {
        /// Names; none is all.
        args: Vec<String>,
        /// No headers.
        #[arg(long)]
        no_headers: bool,
        /// name.
        #[arg(long, short, default_value = "")]
        output: String,
    },
    /// Display users defined in the kubeconfig
    GetUsers {
        /// Nothing.
        #[arg(hide = true)]
        args: Vec<String>,
    },
    /// Rename a context from the kubeconfig file
    RenameContext {
        /// The old and the new name.
        args: Vec<String>,
    },
    /// Set an individual value in a kubeconfig file
    Set {
        /// The property (`contexts.NAME.namespace`) and its value.
        args: Vec<String>,
        /// The value of a -data property is not in base64.
        #[arg(long)]
        set_raw_bytes: bool,
    },
    /// Set a cluster entry in kubeconfig
    SetCluster {
        /// The name.
        args: Vec<String>,
        /// Put the certificate itself into the kubeconfig.
        #[arg(long)]
        embed_certs: Option<bool>,
        /// The proxy to go through.
        #[arg(long)]
        proxy_url: Option<String>,
        /// The cluster's address.
        #[arg(long = "local-server")]
        address: Option<String>,
    },
    /// Set a context entry in kubeconfig
    SetContext {
        /// The name.
        args: Vec<String>,
        /// Change the current context.
        #[arg(long)]
        current: bool,
        /// The context's namespace.
        #[arg(long = "local-namespace")]
        of_namespace: Option<String>,
    },
    /// Set a user entry in kubeconfig
    SetCredentials {
        /// The name.
        args: Vec<String>,
        /// Put certificate and key themselves into the kubeconfig.
        #[arg(long)]
        embed_certs: Option<bool>,
        /// The command of an exec plugin.
        #[arg(long)]
        exec_command: Option<String>,
        /// The exec plugin's API version.
        #[arg(long)]
        exec_api_version: Option<String>,
        /// Arguments of the exec plugin's command.
        #[arg(long, value_delimiter = ',')]
        exec_arg: Vec<String>,
        /// Variables of the exec plugin's command: NAME=VALUE, or NAME- to remove one.
        #[arg(long)]
        exec_env: Vec<String>,
        /// Whether the exec plugin may ask: Never, IfAvailable or Always.
        #[arg(long)]
        exec_interactive_mode: Option<String>,
        /// Tell the exec plugin of the cluster.
        #[arg(long)]
        exec_provide_cluster_info: Option<bool>,
        /// The name of an auth provider.
        #[arg(long)]
        auth_provider: Option<String>,
        /// What the auth provider is told: NAME=VALUE, or NAME- to remove one.
        #[arg(long, value_delimiter = ',')]
        auth_provider_arg: Vec<String>,
    },
    /// Unset an individual value in a kubeconfig file
    Unset {
        /// The property.
        args: Vec<String>,
    },
    /// Set the current-context in a kubeconfig file
    #[command(alias = "use")]
    UseContext {
        /// The name.
        args: Vec<String>,
    },
    /// Display merged kubeconfig settings or a specified kubeconfig file
    View {
        /// Nothing.
        #[arg(hide = true)]
        args: Vec<String>,
        /// Output.
        #[command(flatten)]
        output: OutputArgs,
        /// Show what is secret, and certificates.
        #[arg(long)]
        raw: bool,
        /// Put files' contents in the place of their names.
        #[arg(long)]
        flatten: bool,
        /// Only what the current context needs.
        #[arg(long)]
        minify: bool,
        /// Merge all files.
        #[arg(long, default_value_t = true)]
        merge: bool,
    },
}

/// Looks or changes.
///
/// # Errors
/// If names are not there or files cannot be read or written.
pub async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let Some(command) = args.command else { return Err(no_command(&["config"], &[])) };
    cx.pardon_missing_kubeconfig();
    match &command {
        Command::View { args, .. } if !args.is_empty() => {
            return Err(usage("config view", format!("unexpected arguments: [{}]", args.join(" "))));
        }
        _ => {}
    }
    match command {
        Command::CurrentContext { .. } => view::current_context(cx),
        Command::GetClusters { .. } => view::names(cx, "clusters"),
        Command::GetUsers { .. } => view::names(cx, "users"),
        Command::GetContexts { args, no_headers, output } => view::contexts(cx, &args, no_headers, &output),
        Command::View { output, raw, flatten, minify, merge, .. } => view::view(cx, &output, raw, flatten, minify, merge),
        Command::DeleteCluster { args } => edit::delete(cx, &args, "cluster", "clusters"),
        Command::DeleteContext { args } => edit::delete(cx, &args, "context", "contexts"),
        Command::DeleteUser { args } => edit::delete(cx, &args, "user", "users"),
        Command::RenameContext { args } => edit::rename(cx, &args),
        Command::UseContext { args } => edit::use_context(cx, &args),
        Command::SetContext { args, current, of_namespace } => {
            edit::set_context(cx, &args, current, of_namespace.as_deref())
        }
        Command::SetCluster { args, embed_certs, proxy_url, address } => {
            edit::set_cluster(cx, &args, embed_certs, proxy_url.as_deref(), address.as_deref())
        }
        Command::SetCredentials {
            args,
            embed_certs,
            exec_command,
            exec_api_version,
            exec_arg,
            exec_env,
            exec_interactive_mode,
            exec_provide_cluster_info,
            auth_provider,
            auth_provider_arg,
        } => {
            let exec = edit::Exec {
                command: exec_command,
                api_version: exec_api_version,
                args: exec_arg,
                env: exec_env,
                interactive_mode: exec_interactive_mode,
                provide_cluster_info: exec_provide_cluster_info,
                provider: auth_provider,
                provider_args: auth_provider_arg,
            };
            edit::set_credentials(cx, &args, embed_certs, &exec)
        }
        Command::Set { args, set_raw_bytes } => property::set(cx, &args, set_raw_bytes),
        Command::Unset { args } => property::unset(cx, &args),
    }
}
