//! One try of a probe.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};

use super::{Outcome, grpc};
use crate::{http_get, runtime::Runtime};

/// Tries once.
pub async fn ask(runtime: &Runtime, probe: &Probe, container: &Container, id: &str, ip: &str, timeout: Duration) -> Outcome {
    if let Some(exec) = &probe.exec {
        return exec_probe(runtime, id, exec.command.as_deref().unwrap_or_default(), timeout).await;
    }
    if let Some(action) = &probe.http_get {
        let target = match http_get::Target::of(action, container, ip) {
            Ok(target) => target,
            Err(error) => return Outcome::Error(error),
        };
        return match http_get::get(&target, timeout).await {
            Ok(answer) if answer.redirected_away => {
                Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
            }
            Ok(answer) if (200..400).contains(&answer.status) => Outcome::Success,
            Ok(answer) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
            Err(error) => Outcome::Failure(error),
        };
    }
    if let Some(action) = &probe.tcp_socket {
        return match http_get::tcp(action, container, ip, timeout).await {
            Ok(()) => Outcome::Success,
            Err(error) => Outcome::Failure(error),
        };
    }
    if let Some(action) = &probe.grpc {
        let port = u16::try_from(action.port).unwrap_or(0);
        let service = action.service.as_deref().unwrap_or_default();
        return grpc::check(ip, port, service, timeout).await;
    }
    Outcome::Error(format!("missing probe handler for container {}", container.name))
}

async fn exec_probe(runtime: &Runtime, id: &str, command: &[String], timeout: Duration) -> Outcome {
    match runtime.exec_sync(id, command, timeout).await {
        Ok(out) if out.exit_code == 0 => Outcome::Success,
        Ok(out) => {
            let mut text = out.stdout;
            text.extend_from_slice(&out.stderr);
            // As much as an event may carry.
            text.truncate(1024);
            Outcome::Failure(String::from_utf8_lossy(&text).into_owned())
        }
        Err(error) if error.status.code() == tonic::Code::DeadlineExceeded => {
            Outcome::Failure(format!("command timed out: \"{}\" timed out after {}s", command.join(" "), timeout.as_secs()))
        }
        Err(error) => Outcome::Error(error.rpc()),
    }
}
