//! Lifecycle hooks: exec, httpGet, tcpSocket, sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::{http_get, runtime::Runtime};

/// Runs a hook within `limit`. The error says what went wrong.
pub async fn run(
    runtime: &Runtime,
    hook: &LifecycleHandler,
    container: &Container,
    id: &str,
    ip: &str,
    limit: Duration,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match runtime.exec_sync(id, &command, limit).await {
            Ok(out) if out.exit_code == 0 => Ok(()),
            Ok(out) => {
                let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
                Err(format!("command '{}' exited with {}: {text}", command.join(" "), out.exit_code))
            }
            Err(error) => Err(error.rpc()),
        };
    }
    if let Some(action) = &hook.http_get {
        let target = http_get::Target::of_hook(action, container, ip)?;
        return http_get::get(&target, limit).await.and_then(|answer| match answer.status {
            200..400 => Ok(()),
            status => Err(format!("HTTP hook failed with statuscode: {status}")),
        });
    }
    if let Some(action) = &hook.tcp_socket {
        return http_get::tcp(action, container, ip, limit).await;
    }
    if let Some(sleep) = &hook.sleep {
        let wanted = Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0));
        tokio::time::sleep(wanted.min(limit)).await;
    }
    Ok(())
}
