//! logs, exec, attach, port-forward and cp through the API server to the kubelet, with our kubectl and with a real one where
//! one is installed.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use harness::{Cluster, kubectls, succeeded};

use crate::life::with_example;

fn port_forward(cluster: &Cluster, kubectl: &Path, pod: &str) -> Result<String> {
    let mut forward = cluster.command(kubectl);
    let mut forward = forward.args(["port-forward", pod, ":8080"]).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    // Kept until the end: a kubectl that cannot write any more dies.
    let mut output = BufReader::new(forward.stdout.take().context("read its output")?);
    output.read_line(&mut line)?;
    let port = line.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
    let answer = port.with_context(|| format!("find the port in {line:?}")).and_then(|port| {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    });
    forward.kill()?;
    forward.wait()?;
    answer
}

#[test]
fn logs_exec_and_port_forward_reach_the_container() -> Result<()> {
    let cluster = with_example(&[])?;
    let pods = cluster.kubectl(&["get", "pods", "-o", "name"])?;
    let pod = pods.lines().next().context("find a pod")?;
    let name = pod.trim_start_matches("pod/");
    for kubectl in kubectls()? {
        let run = |arguments: &[&str]| succeeded(cluster.command(&kubectl).args(arguments));
        assert_eq!(run(&["exec", pod, "--", "hostname"])?.trim(), name, "{}", kubectl.display());
        run(&["exec", pod, "--", "sh", "-c", "echo to the log >/proc/1/fd/1"])?;
        assert!(run(&["logs", pod])?.contains("to the log"), "{}", kubectl.display());
        let code = cluster.command(&kubectl).args(["exec", pod, "--", "sh", "-c", "exit 7"]).output()?.status.code();
        assert_eq!(code, Some(7), "{}", kubectl.display());
        assert_eq!(echo(&cluster, &kubectl, pod)?, "through standard input");
        assert_eq!(there_and_back(&cluster, &kubectl, name)?, "there and back", "{}", kubectl.display());
        assert!(port_forward(&cluster, &kubectl, pod)?.contains(name), "{}", kubectl.display());
    }
    Ok(())
}

/// Copies a file into a pod and out of it again.
fn there_and_back(cluster: &Cluster, kubectl: &Path, pod: &str) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let (there, back) = (folder.path().join("there"), folder.path().join("back"));
    std::fs::write(&there, "there and back")?;
    let copy = |from: &str, to: &str| succeeded(cluster.command(kubectl).args(["cp", from, to]));
    copy(&there.to_string_lossy(), &format!("{pod}:/tmp/copied"))?;
    copy(&format!("{pod}:/tmp/copied"), &back.to_string_lossy())?;
    succeeded(cluster.command(kubectl).args(["exec", pod, "--", "rm", "/tmp/copied"]))?;
    Ok(std::fs::read_to_string(back)?)
}

fn echo(cluster: &Cluster, kubectl: &Path, pod: &str) -> Result<String> {
    let mut cat: Command = cluster.command(kubectl);
    let mut cat = cat.args(["exec", "-i", pod, "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    cat.stdin.take().context("write to it")?.write_all(b"through standard input")?;
    Ok(String::from_utf8(cat.wait_with_output()?.stdout)?)
}
