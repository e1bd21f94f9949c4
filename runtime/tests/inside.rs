//! What a container sees and may do, looked at from inside.

#![allow(clippy::large_futures, reason = "CRI's messages are large, and tests are not in a hurry")]

mod support;

use support::{Node, namespaces, script, with_security};

/// The lines that a script printed on standard output.
async fn said(node: &Node, name: &str, config: cri::ContainerConfig) -> Vec<String> {
    let (status, log) = node.outcome(name, config).await;
    assert_eq!((status.exit_code, status.message.as_str()), (0, ""), "{log}");
    log.lines().filter_map(|line| line.strip_prefix("stdout F ")).map(str::to_owned).collect()
}

fn value(value: i64) -> Option<cri::Int64Value> {
    Some(cri::Int64Value { value })
}

#[tokio::test(flavor = "multi_thread")]
async fn names_environment_and_processes() {
    let node = Node::start().await;
    let mut config = script(
        "main",
        "hostname; env | grep -E '^(FROM|OWN|HOME|HOSTNAME)=' | sort; pwd; set -- /proc/[0-9]*; echo $#; echo $$; cat /etc/resolv.conf",
    );
    config.envs = vec![cri::KeyValue { key: "OWN".into(), value: b"1".to_vec() }];
    config.working_dir = "/made/for/it".into();
    let mut pod = node.pod("names");
    pod.dns_config = Some(cri::DnsConfig { servers: vec!["192.0.2.53".into()], ..Default::default() });
    let sandbox = node.run(&pod).await;
    let id = node.create(&sandbox, &pod, config).await;
    node.start_container(&id).await.unwrap();
    let log = support::log(&node.ended(&id).await);
    let lines: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    let expected =
        ["names", "FROM=image", "HOME=/root", "HOSTNAME=names", "OWN=1", "/made/for/it", "1", "1", "nameserver 192.0.2.53"];
    assert_eq!(lines, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_groups_and_capabilities() {
    let node = Node::start().await;
    let show =
        "id -u; id -g; id -G; grep -E '^(CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'";
    let show = show.replace("| tr -d '\\t'", "| sed 's/\\t//'");
    let root = said(&node, "root", script("main", &show)).await;
    let default = "00000000a80425fb";
    let expected = [
        "0",
        "0",
        "0",
        &format!("CapPrm:{default}"),
        &format!("CapEff:{default}"),
        &format!("CapBnd:{default}"),
        "CapAmb:0000000000000000",
        "NoNewPrivs:0",
        "Seccomp:0",
    ]
    .map(str::to_owned);
    assert_eq!(root, expected);
    let app = with_security(script("main", &show), |security| {
        security.run_as_username = "app".into();
        security.supplemental_groups = vec![77];
        security.no_new_privs = true;
        security.seccomp = Some(cri::SecurityProfile::default());
        security.capabilities = Some(cri::Capability {
            add_capabilities: vec!["NET_BIND_SERVICE".into()],
            drop_capabilities: vec!["ALL".into()],
            add_ambient_capabilities: vec!["NET_BIND_SERVICE".into()],
        });
    });
    let only = "0000000000000400";
    let expected = [
        "1000",
        "2000",
        "2000 10 77",
        &format!("CapPrm:{only}"),
        &format!("CapEff:{only}"),
        &format!("CapBnd:{only}"),
        &format!("CapAmb:{only}"),
        "NoNewPrivs:1",
        "Seccomp:2",
    ]
    .map(str::to_owned);
    assert_eq!(said(&node, "app", app).await, expected);
    let number = with_security(script("main", "id -u; id -g; echo $HOME"), |security| {
        security.run_as_user = value(4711);
        security.run_as_group = value(5);
    });
    assert_eq!(said(&node, "number", number).await, ["4711", "5", "/"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_and_readonly_paths() {
    let node = Node::start().await;
    let text = "
        cat /proc/keys /proc/timer_list | wc -c; ls -A /sys/firmware | wc -l
        (echo 1 > /proc/sys/kernel/panic) 2>/dev/null || echo sys refused
        (touch /sys/fs/cgroup/x) 2>/dev/null || echo cgroup refused
        (touch /x) 2>/dev/null && echo root written
        mknod /dev/other c 10 229 && ((: < /dev/other) 2>/dev/null || echo device refused)
        echo x > /dev/null && head -c 3 /dev/zero | wc -c
        ls -l /dev/stdout /dev/ptmx | sed 's/.* -> //'
        unshare -m true 2>/dev/null || echo unshare refused
        df /dev/shm | tail -n 1 | sed 's/ .*//'
        ls /proc/self/fd | wc -l";
    let expected = [
        "0",
        "0",
        "sys refused",
        "cgroup refused",
        "root written",
        "device refused",
        "3",
        "pts/ptmx",
        "/proc/self/fd/1",
        "unshare refused",
        "tmpfs",
        "4",
    ];
    assert_eq!(said(&node, "plain", script("main", text)).await, expected);
    let readonly = with_security(
        script("main", "(touch /x) 2>/dev/null || echo refused; (touch /dev/shm/x) && echo shm"),
        |security| {
            security.readonly_rootfs = true;
        },
    );
    assert_eq!(said(&node, "readonly", readonly).await, ["refused", "shm"]);
    let privileged = with_security(
        script("main", "mount -t tmpfs x /tmp && echo mounted; (touch /proc/sys/kernel/panic) && echo sys"),
        |security| {
            security.privileged = true;
            security.masked_paths.clear();
            security.readonly_paths.clear();
        },
    );
    assert_eq!(said(&node, "privileged", privileged).await, ["mounted", "sys"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_and_links_on_their_way() {
    let node = Node::start().await;
    let host = node.place.dir.path().join("volume");
    std::fs::create_dir_all(host.join("inner")).unwrap();
    std::fs::write(host.join("file"), "content\n").unwrap();
    let mount = |to: &str, from: &std::path::Path, readonly| cri::Mount {
        container_path: to.into(),
        host_path: from.to_str().unwrap().into(),
        readonly,
        ..Default::default()
    };
    // The image's own links must neither lead a mount out of the root nor stop it.
    let layer = support::image::Layer::new().symlink("run", "/really/run").symlink("out", "../../../../etc").finish();
    let base = support::image::busybox_layer();
    let archive = support::image::docker_archive("test.local/links:1", &[base, layer], serde_json::json!({}));
    node.runtime.images().import(archive.as_slice()).unwrap();
    let text = "cat /data/file; (touch /data/x) 2>/dev/null || echo readonly; touch /rw/made && echo written; cat /run/secret; cat /really/run/secret; cat /out/knarr-test-file; cat /etc/knarr-test-file";
    let mut config = script("main", text);
    config.image = Some(cri::ImageSpec { image: "test.local/links:1".into(), ..Default::default() });
    config.mounts = vec![
        mount("/data", &host, true),
        mount("/rw", &host.join("inner"), false),
        mount("/run/secret", &host.join("file"), true),
        mount("/out/knarr-test-file", &host.join("file"), true),
    ];
    let lines = said(&node, "mounts", config).await;
    assert_eq!(lines, ["content", "readonly", "written", "content", "content", "content", "content"]);
    assert!(host.join("inner/made").exists() && !std::path::Path::new("/etc/knarr-test-file").exists());
    let mut config = script("main", "true");
    config.mounts = vec![mount("/proc/self", &host, true)];
    let pod = node.pod("proc");
    let sandbox = node.run(&pod).await;
    let id = node.create(&sandbox, &pod, config).await;
    let error = node.start_container(&id).await.unwrap_err();
    assert!(error.message().contains("inside /proc"), "{error}");
    // What would be hidden in /proc is looked for by path, which such an image may turn elsewhere.
    let layer = support::image::Layer::new().file(".wh.proc", 0o644, b"").symlink("proc", "/elsewhere").finish();
    let archive = support::image::docker_archive(
        "test.local/proc:1",
        &[support::image::busybox_layer(), layer],
        serde_json::json!({}),
    );
    node.runtime.images().import(archive.as_slice()).unwrap();
    let mut config = script("linked", "true");
    config.image = Some(cri::ImageSpec { image: "test.local/proc:1".into(), ..Default::default() });
    let id = node.create(&sandbox, &pod, config).await;
    let error = node.start_container(&id).await.unwrap_err();
    assert!(error.message().contains("mount \"/proc\": it must be an ordinary directory"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_at_etc_hides_nothing_of_the_pods_names() {
    let node = Node::start().await;
    let host = node.place.dir.path().join("volume");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("own"), "own\n").unwrap();
    let mut config = script("main", "cat /etc/own /etc/hostname; ls /etc | sort");
    config.mounts =
        vec![cri::Mount { container_path: "/etc/".into(), host_path: host.to_str().unwrap().into(), ..Default::default() }];
    assert_eq!(said(&node, "names", config).await, ["own", "names", "hostname", "hosts", "own", "resolv.conf"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_propagate_as_asked() {
    let node = Node::start().await;
    // A shared mount of the test's own.
    let shared = node.place.dir.path().join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    struct Unmount(std::path::PathBuf);
    impl Drop for Unmount {
        fn drop(&mut self) {
            let _ = nix::mount::umount2(&self.0.join("inner"), nix::mount::MntFlags::MNT_DETACH);
            let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        }
    }
    use nix::mount::{MsFlags, mount};
    mount(Some("tmpfs"), &shared, Some("tmpfs"), MsFlags::empty(), None::<&str>).unwrap();
    let _unmount = Unmount(shared.clone());
    mount(None::<&str>, &shared, None::<&str>, MsFlags::MS_SHARED, None::<&str>).unwrap();
    std::fs::create_dir(shared.join("inner")).unwrap();
    let mut config =
        with_security(script("main", "mount -t tmpfs x /shared/inner && touch /shared/inner/seen"), |security| {
            security.privileged = true;
        });
    config.mounts = vec![cri::Mount {
        container_path: "/shared".into(),
        host_path: shared.to_str().unwrap().into(),
        propagation: cri::MountPropagation::PropagationBidirectional.into(),
        ..Default::default()
    }];
    said(&node, "propagate", config).await;
    assert!(shared.join("inner/seen").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_pod_share_what_they_should() {
    let node = Node::start().await;
    let mut pod = node.pod("shared");
    let linux = pod.linux.as_mut().unwrap();
    linux.sysctls = [("net.core.somaxconn".to_owned(), "77".to_owned())].into();
    let options = linux.security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
    options.set_pid(cri::NamespaceMode::Pod);
    let sandbox = node.run(&pod).await;
    let shared = |config| {
        with_security(config, |security| security.namespace_options.as_mut().unwrap().set_pid(cri::NamespaceMode::Pod))
    };
    let first = node.create(&sandbox, &pod, shared(script("first", "echo hi > /dev/shm/note; sleep 1000"))).await;
    node.start_container(&first).await.unwrap();
    node.exec(&first, &["sh", "-c", "while ! [ -e /dev/shm/note ]; do :; done"]).await;
    let text = "cat /dev/shm/note; cat /proc/sys/net/core/somaxconn; cat /proc/1/comm; ps | grep -c 'sleep 100[0]'; readlink /proc/1/root || echo closed";
    let second = node.create(&sandbox, &pod, shared(script("second", text))).await;
    node.start_container(&second).await.unwrap();
    let log = support::log(&node.ended(&second).await);
    let lines: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("stdout F ")).collect();
    assert_eq!(lines, ["hi", "77", "pause", "1", "closed"], "{log}");
    let host = with_security(script("host", "ps | wc -l"), |security| {
        let mut options = namespaces();
        options.set_pid(cri::NamespaceMode::Node);
        security.namespace_options = Some(options);
    });
    let third = node.create(&sandbox, &pod, host).await;
    node.start_container(&third).await.unwrap();
    let status = node.ended(&third).await;
    let count: usize = support::log(&status).trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count > 10, "{count} processes of the node are seen");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_start_says_why() {
    let node = Node::start().await;
    let pod = node.pod("errors");
    let sandbox = node.run(&pod).await;
    let mut messages = Vec::new();
    let cases = [vec!["nowhere"], vec!["/not/there"], vec!["/tmp/not-executable"], vec!["/tmp"]];
    for (attempt, command) in cases.into_iter().enumerate() {
        let mut config = script("main", "");
        config.metadata.as_mut().unwrap().attempt = attempt as u32;
        config.command = command.into_iter().map(String::from).collect();
        let id = node.create(&sandbox, &pod, config).await;
        let error = node.start_container(&id).await.unwrap_err();
        let status = node.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        messages.push(error.message().replace("failed to create task: ", ""));
    }
    let expected = [
        "exec: \"nowhere\": executable file not found in $PATH",
        "exec: \"/not/there\": stat /not/there: no such file or directory",
        "exec: \"/tmp/not-executable\": permission denied",
        "exec: \"/tmp\": is a directory",
    ];
    assert_eq!(messages, expected);
    let odd = with_security(script("odd", "true"), |security| {
        security.capabilities = Some(cri::Capability { add_capabilities: vec!["FLY".into()], ..Default::default() });
    });
    let error = node.try_create(&sandbox, &pod, odd).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (tonic::Code::InvalidArgument, "unknown capability \"FLY\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn system_calls_are_filtered() {
    use cri::security_profile::ProfileType;
    let node = Node::start().await;
    let text = "unshare -U true 2>/dev/null && echo namespace; mkdir /made 2>/dev/null && echo directory; grep ^Seccomp: /proc/self/status | sed 's/\\t//'";
    let profile = |kind: ProfileType, file: &str| {
        let profile = cri::SecurityProfile { profile_type: kind.into(), localhost_ref: file.into() };
        with_security(script("main", text), |security| security.seccomp = Some(profile))
    };
    assert_eq!(said(&node, "none", profile(ProfileType::Unconfined, "")).await, ["namespace", "directory", "Seccomp:0"]);
    assert_eq!(said(&node, "default", profile(ProfileType::RuntimeDefault, "")).await, ["directory", "Seccomp:2"]);
    let own = node.place.dir.path().join("profile.json");
    let rules = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    std::fs::write(&own, rules).unwrap();
    let own = profile(ProfileType::Localhost, own.to_str().unwrap());
    assert_eq!(said(&node, "own", own).await, ["namespace", "Seccomp:2"]);
    let pod = node.pod("absent");
    let sandbox = node.run(&pod).await;
    let absent = profile(ProfileType::Localhost, "/no/such/profile.json");
    let error = node.try_create(&sandbox, &pod, absent).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_leaves_no_process_in_a_shared_namespace() {
    let node = Node::start().await;
    let mut pod = node.pod("leftover");
    let options = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options.as_mut().unwrap();
    options.set_pid(cri::NamespaceMode::Pod);
    let sandbox = node.run(&pod).await;
    let shared = |config| {
        with_security(config, |security| security.namespace_options.as_mut().unwrap().set_pid(cri::NamespaceMode::Pod))
    };
    let first = node.create(&sandbox, &pod, shared(script("first", "sleep 1000 & sleep 1000 & exit 3"))).await;
    node.start_container(&first).await.unwrap();
    assert_eq!(node.ended(&first).await.exit_code, 3);
    let second = shared(script("second", "while ps | grep -q 'sleep 100[0]'; do sleep 0.01; done; echo alone"));
    let second = node.create(&sandbox, &pod, second).await;
    node.start_container(&second).await.unwrap();
    assert_eq!(support::log(&node.ended(&second).await), "stdout F alone\n");
}

/// One that may do all may also put a process into a group of its own making, and end.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_leaves_no_process_in_a_group_of_its_own() {
    let node = Node::start().await;
    let text = "
        for dir in /sys/fs/cgroup/memory /sys/fs/cgroup; do [ -e $dir/cgroup.procs ] && break; done
        mkdir $dir/inner && (echo 0 > $dir/inner/cgroup.procs; exec sleep 1000) &
        until grep -q . $dir/inner/cgroup.procs; do sleep 0.01; done; exit 3";
    let config = with_security(script("main", text), |security| {
        security.privileged = true;
        security.namespace_options.as_mut().unwrap().set_pid(cri::NamespaceMode::Node);
    });
    let id = node.container("inner", config).await;
    assert_eq!(node.ended(&id).await.exit_code, 3);
    node.cri().remove_container(cri::RemoveContainerRequest { container_id: id.clone() }).await.unwrap();
    let (cgroups, group) = (knarr_runtime::cgroup::detect().unwrap(), format!("{}/{id}", node.place.cgroup));
    let empty = async || cgroups.usage(&group).is_err().then_some(());
    support::eventually("the group is gone with all that was in it", empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_pods_in_the_nodes_network_share_its_name() {
    let node = Node::start().await;
    let own = std::fs::read_link("/proc/self/ns/uts").unwrap().display().to_string();
    let named = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let mut seen = Vec::new();
    for (name, hostname, network) in [
        ("named", "p", cri::NamespaceMode::Pod),
        ("nameless", "", cri::NamespaceMode::Pod),
        ("host", "p", cri::NamespaceMode::Node),
    ] {
        let mut pod = node.pod(name);
        pod.hostname = hostname.into();
        let security = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.namespace_options.as_mut().unwrap().set_network(network);
        let sandbox = node.run(&pod).await;
        let config = script("main", "readlink /proc/self/ns/uts; hostname; echo $HOSTNAME");
        let id = node.create(&sandbox, &pod, config).await;
        node.start_container(&id).await.unwrap();
        let log = support::log(&node.ended(&id).await);
        let lines: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("stdout F ")).collect();
        seen.push((lines[0] == own, lines[1].to_owned(), lines[2].to_owned()));
    }
    let expected =
        [(false, "p".to_owned()), (false, named.clone()), (true, named)].map(|(shared, name)| (shared, name.clone(), name));
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_process_namespace_tells_nothing_of_the_node() {
    let node = Node::start().await;
    let mut pod = node.pod("shared");
    let security = pod.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().set_pid(cri::NamespaceMode::Pod);
    let sandbox = node.run(&pod).await;
    let mut config = script("main", "tr '\\0' ' ' </proc/1/cmdline; echo; cat /proc/1/comm");
    config
        .linux
        .as_mut()
        .unwrap()
        .security_context
        .as_mut()
        .unwrap()
        .namespace_options
        .as_mut()
        .unwrap()
        .set_pid(cri::NamespaceMode::Pod);
    let id = node.create(&sandbox, &pod, config).await;
    node.start_container(&id).await.unwrap();
    let log = support::log(&node.ended(&id).await);
    let lines: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix("stdout F ")).map(str::trim).collect();
    assert_eq!(lines, ["/pause", "pause"]);
}
