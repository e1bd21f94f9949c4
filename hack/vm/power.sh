# Power cuts. Sourced by hack/vm-test, which has packed the programs.
#
# A server on redb, installed as people install it, in a machine whose disk has a write cache and whose file system has a
# journal. Writers outside change ConfigMaps, pods, Leases and Events as fast as they are answered and note what was
# acknowledged. Then the emulator is killed: what the machine's kernel had not flushed to its disk is gone. When the machine has
# booted again, its server has started by itself, and
#
#   - every ConfigMap and pod is as it was acknowledged last, with that resourceVersion, or as the one request left it that was
#     not answered any more; what was deleted stays deleted, and there is nothing that nobody made
#   - no Lease is older, and no Event missing, of what was acknowledged more than two seconds before the cut
#   - lists and new writes have higher resourceVersions than any told before; a watch from before the cut is answered by 410
#     (Gone), one from a new list tells what follows
#   - the pod that the node ran runs again
#
# Who writes, pulls the plug and looks is `knarr-bench power` (tests/bench/src/power.rs).
# shellcheck shell=bash

# shellcheck disable=SC2016,SC2154
power_port=$((vm_lan + 25000))

# Without a flush nothing may last there, and with one everything must.
power_machine() {
    vm_start power 12 || return
    vm_run power 'set -e
        [ "$(cat /sys/block/vda/queue/write_cache)" = "write back" ]
        grep -x data=ordered /proc/fs/ext4/vda/options
        grep -x barrier /proc/fs/ext4/vda/options
        # The kernel writes nothing within an hour that nobody asks it to.
        echo vm.dirty_writeback_centisecs=360000 >/etc/sysctl.d/power.conf
        sysctl -q -p /etc/sysctl.d/power.conf
        # Its console tells of writes to the file of redb, which are seldom and make changes settle (inotify_init, -_add_watch).
        cat >/usr/local/sbin/tell-writes <<"SCRIPT"
#!/usr/bin/perl
my ($file, $modified, $buffer) = ("/var/lib/knarr-server/state.db", 2, "");
my $fd = syscall(253);
syscall(254, $fd, $file, $modified);
open(my $events, "<&=", $fd);
while (sysread($events, $buffer, 4096)) {
    # Opened for each line: whoever lets people log in there hangs up on others.
    open(my $console, ">", "/dev/ttyS0");
    print $console "redb is written to\n";
}
SCRIPT
        chmod 755 /usr/local/sbin/tell-writes
        printf "%s\n" "[Unit]" Before=knarr-server.service "[Service]" ExecStart=/usr/local/sbin/tell-writes \
            "[Install]" WantedBy=multi-user.target >/etc/systemd/system/tell-writes.service
        systemctl enable -q tell-writes
        install /payload/bin/* /usr/local/bin/
        knarr install-service --no-start server -- --advertise-address 10.77.0.12
        sync
        systemctl start --no-block knarr-server
        for i in $(seq 1200); do [ ! -s /var/lib/knarr-server/admin.kubeconfig ] || exit 0; sleep 0.1; done
        exit 1' || return
    vm_get power /var/lib/knarr-server/admin.kubeconfig | sed "s#server: .*#server: https://127.0.0.1:$power_port#" >"$payload/kubeconfig"
    coproc power { "$bin/knarr-bench" power "$payload/kubeconfig" 2>"$payload/power"; }
    power_ask check
}

power_ask() {
    local said
    if echo "$*" >&"${power[1]}" && read -r said <&"${power[0]}"; then echo "$said"; else cat "$payload/power" && return 1; fi
}

power_kubectl() { vm_run power "KUBECONFIG=/var/lib/knarr-server/admin.kubeconfig kubectl $*"; }

power_pod() {
    vm_run power knarr image load /payload/hello.tar --root /var/lib/knarr-server/node/runtime &&
        power_kubectl run hello --image=localhost/hello:1 --image-pull-policy=Never && power_pod_runs && power_has_pod=1
}

# Its status may be from before the cut; what runs in it is not.
power_pod_runs() {
    local until=$((SECONDS + 180))
    until power_kubectl exec hello -- true 2>"$payload/exec"; do
        [ $SECONDS -lt $until ] || { cat "$payload/exec" && return 1; }
        sleep 1
    done
}

# power_cut WHEN...: as `knarr-bench power` has it, then "starting" for one cut more, while the server starts again.
power_cut() {
    local words=("$@") again= pid ms=$((RANDOM % 200)) unsynced=/root/unsynced-$SECONDS
    if [ "${words[-1]}" = starting ]; then again=1 && unset 'words[-1]'; fi
    # What nobody flushed must be gone, or this is no power cut.
    vm_run power "echo unsynced >$unsynced" || return
    power_ask cut "$(cat "$vm_dir/power.pid")" "${words[@]}" || return
    vm_kill power
    if [ -n "$again" ]; then
        vm_on power
        pid=$(cat "$vm_dir/power.pid")
        timeout "$vm_patience" grep -q "redb is written to" <(tail -n +1 -s 0.01 --pid "$pid" -F "$vm_dir/power.console" 2>/dev/null) || return
        sleep "0.$(printf %03d $ms)"
        vm_kill power
        echo "cut again $ms ms after the server began to write"
    fi
    vm_on power
    vm_await power || return
    # (A node that starts for the first time makes its images, and syncs the whole disk for them.)
    [ -z "$power_has_pod" ] || vm_run power "[ ! -s $unsynced ]" || { echo "the disk has what nobody flushed" && return 1; }
    power_ask check || return
    [ -z "$power_has_pod" ] || power_pod_runs
}

power_cuts() {
    local VM_CACHE=writeback VM_FORWARD="127.0.0.1:$power_port-:6443" power_has_pod=
    check "a server for power cuts" power_machine
    check "power cut soon after the first start" power_cut after 500
    check "a pod runs" power_pod
    check "power cut among many writes" power_cut after $((2000 + RANDOM % 4000))
    check "power cut while many changes settle" power_cut settling "$vm_dir/power.console"
    check "power cut while many changes settle, another while the server starts" power_cut settling "$vm_dir/power.console" starting
    check "power cut among many writes, another while the server starts" power_cut after $((2000 + RANDOM % 4000)) starting
    check "power cut after five seconds of relaxed writes" power_cut relaxed
    # It has a copy of where the checks print, which ends with it.
    [ -z "${power_PID:-}" ] || { exec {power[1]}>&- && wait "$power_PID" || failed=1; }
    vm_kill power
    rm -f "$vm_dir"/power.*
}
