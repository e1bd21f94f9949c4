//! `--raw`: a request whose path is given as it is, and whose answer is printed as it comes.

use std::io::{Read, Write};

use http::Method;

use crate::{
    client::{ANY, Call, JSON},
    context::Context,
    failure::{Failure, file_error, plain},
    resources::FileArgs,
};

/// What may not be given besides `--raw`.
///
/// # Errors
/// Upstream's refusals.
pub fn validate(raw: &str, files: &FileArgs, need_file: bool, output: bool) -> Result<(), Failure> {
    let names = &files.filename;
    if (need_file && names.len() != 1) || names.len() > 1 {
        return Err(plain("--raw can only use a single local file or stdin"));
    }
    if names.iter().any(|name| name.starts_with("http://") || name.starts_with("https://")) {
        return Err(plain("--raw cannot read from a url"));
    }
    if files.recursive {
        return Err(plain("--raw and --recursive are mutually exclusive"));
    }
    if output {
        return Err(plain("--raw and --output are mutually exclusive"));
    }
    if !raw.starts_with('/') {
        return Err(plain(format!(
            "--raw must be a valid URL path: parse {}: invalid URI for request",
            api::field::go_quote(raw)
        )));
    }
    Ok(())
}

/// Sends a file's bytes (`-` is stdin) and prints the answer.
///
/// # Errors
/// The file cannot be read, or the server refuses.
pub async fn send(cx: &Context, method: Method, path: &str, file: Option<&str>) -> Result<(), Failure> {
    let mut body = Vec::new();
    match file {
        None => {}
        Some("-") => drop(std::io::stdin().read_to_end(&mut body)?),
        // A directory is opened like any file; that it cannot be read is found out while it is sent.
        Some(file) => {
            body = std::fs::read(file).map_err(|e| match e.kind() {
                std::io::ErrorKind::IsADirectory => {
                    let why = file_error("read", file, &e).message();
                    Failure::Verbatim(format!("Unable to connect to the server: {why}"), 1)
                }
                _ => file_error("open", file, &e),
            })?
        }
    }
    let call = Call::new(method, path).accept(ANY);
    let call = if file.is_some() { call.body(JSON, body) } else { call };
    let answer = cx.client()?.call(call).await?;
    std::io::stdout().write_all(&answer.body)?;
    Ok(())
}
