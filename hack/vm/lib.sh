# Virtual machines for tests that need a machine of their own: another kernel, cgroup v2 with its controllers, a boot.
# Sourced. Machines are emulated (TCG), which works everywhere; VM_ACCEL='-accel kvm' makes them fast where KVM works.
#
#   vm_base                 makes the system every machine starts from, once: Debian by debootstrap, its cloud kernel
#   vm_payload FOLDER       packs a folder; every machine started afterwards sees it, read-only, at /payload
#   vm_start NAME [NUMBER]  starts a machine with a disk of its own and waits until it answers: vm_boot, then vm_await. With
#                           VM_FORWARD=ADDRESS:PORT-:PORT a port here leads to one of its own; with VM_CACHE=writeback its
#                           disk has what it flushed even if its plug is pulled (by default a cut may ruin the disk)
#   vm_on NAME              the same machine once more, with the disk as it is; vm_await waits for it
#   vm_run NAME COMMAND...  runs a command there, as root; its exit status is the command's
#   vm_get NAME PATH        prints a file of it; vm_put NAME PATH writes one (0600) from standard input
#   vm_stop NAME            powers it off; vm_kill pulls the plug; vm_stop_all, on exit, leaves none
#
# A machine has two network cards. The first is qemu's own and leads nowhere but to the machine's ssh, on a port of this
# machine's loopback. The second joins all machines of one user of this file in one network (10.77.0.NUMBER), which is
# multicast on loopback: nothing leaves the machine.
# shellcheck shell=bash

vm_dir=${VM_DIR:-$(pwd)/${CARGO_TARGET_DIR:-target}/vm}
vm_memory=${VM_MEMORY:-1536}
vm_cpus=${VM_CPUS:-2}
# How long a machine may take to boot; emulation beside a busy compiler is slow.
vm_patience=${VM_PATIENCE:-600}
declare -A vm_pids=()
vm_lan=$((20000 + $$ % 20000))

vm_need() {
    local missing pair
    # Twice: to install one may remove another that is of a newer release.
    for _ in 1 2; do
        missing=()
        for pair in qemu-system-x86:qemu-system-x86_64 qemu-utils:qemu-img debootstrap:debootstrap e2fsprogs:mke2fs openssh-client:ssh; do
            PATH=$PATH:/usr/sbin:/sbin command -v "${pair#*:}" >/dev/null || missing+=("${pair%:*}")
        done
        [ ${#missing[@]} -gt 0 ] || return 0
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq
        apt-get install -y -qq --no-install-recommends "${missing[@]}"
    done
}

vm_base() {
    [ -e "$vm_dir/base.img" ] && return
    mkdir -p "$vm_dir"
    local root=$vm_dir/root
    rm -rf "$root"
    [ -e "$vm_dir/key" ] || ssh-keygen -q -t ed25519 -N '' -C vm-test -f "$vm_dir/key"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,udev,dbus,kmod,iproute2,iptables,conntrack,busybox-static,openssh-server,procps,curl,ca-certificates,linux-image-cloud-amd64 \
        bookworm "$root"
    vm_configure "$root"
    cp -L "$root/vmlinuz" "$vm_dir/vmlinuz"
    cp -L "$root/initrd.img" "$vm_dir/initrd.img"
    # Written without mounting anything; the file is as large as what is in it.
    mke2fs -q -t ext4 -L root -d "$root" "$vm_dir/base.new" 6G
    rm -rf "$root"
    mv "$vm_dir/base.new" "$vm_dir/base.img"
}

# What makes a fresh Debian a machine that can be started by the dozen.
vm_configure() {
    local root=$1
    echo 'LABEL=root / ext4 defaults 0 1' >"$root/etc/fstab"
    echo 'LABEL=payload /payload ext4 ro,nofail,x-systemd.device-timeout=120s 0 0' >>"$root/etc/fstab"
    mkdir -p "$root/payload"
    : >"$root/etc/machine-id"
    mkdir -p "$root/root/.ssh"
    chmod 700 "$root/root/.ssh"
    cp "$vm_dir/key.pub" "$root/root/.ssh/authorized_keys"
    # The name and the second card's address come with the kernel's command line.
    cat >"$root/usr/local/sbin/vm-identity" <<'SCRIPT'
#!/bin/sh
for word in $(cat /proc/cmdline); do
    case $word in
    vm.name=*) hostname "${word#*=}"; echo "${word#*=}" >/etc/hostname; echo "127.0.1.1 ${word#*=}" >>/etc/hosts ;;
    vm.address=*) for card in /sys/class/net/e*; do
            [ "$(cat "$card/address")" = "52:54:00:77:00:${word##*.}" ] || continue
            ip link set "${card##*/}" up
            ip address replace "${word#*=}/24" dev "${card##*/}"
        done ;;
    esac
done
for card in /sys/class/net/e*; do
    case $(cat "$card/address") in 52:54:00:76:*) ip link set "${card##*/}" up; ip address replace 10.0.2.15/24 dev "${card##*/}" ;; esac
done
SCRIPT
    chmod 755 "$root/usr/local/sbin/vm-identity"
    cat >"$root/etc/systemd/system/vm-identity.service" <<'UNIT'
[Unit]
After=systemd-udev-settle.service
Wants=systemd-udev-settle.service
Before=ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/vm-identity
[Install]
WantedBy=multi-user.target
UNIT
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
    ln -sf ../vm-identity.service "$root/etc/systemd/system/multi-user.target.wants/vm-identity.service"
    # Nothing of this helps a machine that lives for minutes.
    local unit
    for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer dpkg-db-backup.timer systemd-timesyncd.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
}

# One block device with everything that the machines are to see.
vm_payload() {
    rm -f "$vm_dir/payload.img"
    local kib
    kib=$(du -sk --apparent-size "$1" | cut -f1)
    mke2fs -q -t ext4 -L payload -d "$1" "$vm_dir/payload.img" $((kib + kib / 4 + 16384))k
}

vm_port() { echo $((vm_lan + 20000 + $1)); }

vm_start() { vm_boot "$@" && vm_await "$1"; }

vm_boot() {
    local name=$1
    rm -f "$vm_dir/$name.qcow2"
    qemu-img create -q -f qcow2 -F raw -b "$vm_dir/base.img" "$vm_dir/$name.qcow2"
    echo "${2:-11}" >"$vm_dir/$name.number"
    vm_on "$name"
}

vm_on() {
    local name=$1 number payload=()
    number=$(cat "$vm_dir/$name.number")
    [ ! -e "$vm_dir/payload.img" ] || payload=(-drive "file=$vm_dir/payload.img,format=raw,if=virtio,readonly=on")
    # Of a boot before.
    rm -f "$vm_dir/$name.console"
    # shellcheck disable=SC2086
    qemu-system-x86_64 ${VM_ACCEL:--accel tcg,thread=multi} -cpu max -smp "$vm_cpus" -m "$vm_memory" -display none -no-reboot \
        -kernel "$vm_dir/vmlinuz" -initrd "$vm_dir/initrd.img" \
        -append "root=LABEL=root rw console=ttyS0 quiet net.ifnames=1 vm.name=$name vm.address=10.77.0.$number ${VM_APPEND:-}" \
        -drive "file=$vm_dir/$name.qcow2,format=qcow2,if=virtio,cache=${VM_CACHE:-unsafe}" "${payload[@]}" \
        -device virtio-rng-pci \
        -netdev "user,id=ssh,restrict=on,hostfwd=tcp:127.0.0.1:$(vm_port "$number")-:22${VM_FORWARD:+,hostfwd=tcp:$VM_FORWARD}" \
        -device "virtio-net-pci,netdev=ssh,mac=52:54:00:76:00:$number" \
        -netdev "socket,id=lan,mcast=239.192.77.1:$vm_lan,localaddr=127.0.0.1" \
        -device "virtio-net-pci,netdev=lan,mac=52:54:00:77:00:$number" \
        -serial "file:$vm_dir/$name.console" >"$vm_dir/$name.qemu" 2>&1 </dev/null &
    local pid=$!
    vm_pids[$name]=$pid
    # Nothing is said of it when it is ended.
    disown "$pid"
    echo "$pid" >"$vm_dir/$name.pid"
}

vm_await() {
    local name=$1 pid
    pid=$(cat "$vm_dir/$name.pid")
    local until=$((SECONDS + vm_patience))
    until vm_run "$name" true 2>/dev/null; do
        if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $until ]; then
            echo "the machine $name does not come up:" >&2
            tail -n 20 "$vm_dir/$name.console" "$vm_dir/$name.qemu" >&2
            return 1
        fi
        sleep 1
    done
}

vm_run() { vm_ssh "$@" </dev/null; }

vm_ssh() {
    local name=$1
    shift
    ssh -q -i "$vm_dir/key" -p "$(vm_port "$(cat "$vm_dir/$name.number")")" -o StrictHostKeyChecking=no \
        -o UserKnownHostsFile=/dev/null -o ConnectTimeout=10 -o BatchMode=yes -o ServerAliveInterval=15 -o ServerAliveCountMax=20 \
        root@127.0.0.1 "$@"
}

vm_get() { vm_run "$1" cat "$2"; }

vm_put() { vm_ssh "$1" "mkdir -p '$(dirname "$2")' && umask 077 && cat >'$2'"; }

vm_kill() {
    local pid
    pid=$(cat "$vm_dir/$1.pid")
    kill -9 "$pid" 2>/dev/null || true
    # Until then it holds its disk.
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    unset "vm_pids[$1]"
}

vm_stop() {
    local pid
    pid=$(cat "$vm_dir/$1.pid" 2>/dev/null) || return 0
    vm_run "$1" systemctl poweroff 2>/dev/null || true
    local until=$((SECONDS + 30))
    while kill -0 "$pid" 2>/dev/null; do
        if [ $SECONDS -ge $until ]; then kill -9 "$pid" 2>/dev/null || true; fi
        sleep 0.5
    done
    unset "vm_pids[$1]"
    rm -f "$vm_dir/$1.qcow2" "$vm_dir/$1.pid" "$vm_dir/$1.number"
}

vm_stop_all() {
    local pid
    for pid in "${vm_pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    rm -f "$vm_dir"/*.qcow2 "$vm_dir"/*.pid "$vm_dir"/*.number
}
