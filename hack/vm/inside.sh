#!/bin/bash
# Runs inside a virtual machine with cgroup v2, from /payload: what of the project depends on it, as a person would try it.
# Prints one line a check, "ok" or "FAILED"; its exit status is the number of those that failed (1 at most).
set -u
export PATH=/payload/bin:$PATH KUBECONFIG=/root/kubeconfig
export KNARR_TEST_SHIM=/payload/bin/knarr-shim
failed=0
check() { # check TEXT COMMAND...
    local text=$1 log begun=$SECONDS
    shift
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then
        echo "ok      $text ($((SECONDS - begun)) s)"
    else
        echo "FAILED  $text ($((SECONDS - begun)) s)"
        tail -n 40 "$log" | sed 's/^/        | /'
        failed=1
    fi
    rm -f "$log"
}

# What a machine holds that `knarr down` must have taken away.
traces() {
    ip -o link | cut -d: -f2 | cut -d@ -f1 | sort
    ls /run/netns 2>/dev/null
    find /sys/fs/cgroup -type d -name '*knarr*' | sort
    iptables-save | grep -v '^#' | sed 's/\[.*//' | sort
    mount | grep -c knarr
    ls /var/lib/knarr 2>/dev/null
}

v2_only() { [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] && grep -qw memory /sys/fs/cgroup/cgroup.controllers; }

suite() { # a crate's tests, one after the other, from the programs that cargo has built
    "/payload/tests/$1" --test-threads=1
}

kubectl_cluster() { kubectl --kubeconfig "$KUBECONFIG" "$@"; }

cluster_up() {
    knarr up --name vm && knarr kubeconfig --name vm >"$KUBECONFIG" && knarr image load /payload/hello.tar --name vm
}

apply_pods() {
    kubectl_cluster apply -f - <<'YAML'
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: localhost/hello:1
    resources:
      requests: {cpu: 100m, memory: 32Mi}
      limits: {cpu: 250m, memory: 64Mi}
---
apiVersion: v1
kind: Pod
metadata: {name: guaranteed}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: localhost/hello:1
    resources: {limits: {cpu: 200m, memory: 48Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: best}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: localhost/hello:1}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: localhost/hello:1
    command: [sh, -c, 'x=a; while true; do x=$x$x; done']
    resources: {limits: {memory: 24Mi}}
YAML
    kubectl_cluster wait pod limited guaranteed best --for=condition=Ready --timeout=180s
}

uid() { kubectl_cluster get pod "$1" -o 'jsonpath={.metadata.uid}'; }
# The directory of a pod's cgroup, wherever the node's part of the tree begins.
group() { find /sys/fs/cgroup -type d -name "pod$(uid "$1")" | head -n 1; }
equal() { # equal WHAT FOUND EXPECTED
    [ "$2" = "$3" ] && return
    echo "$1 is '$2', expected '$3'" >&2
    return 1
}

limits() {
    local pod container
    pod=$(group limited)
    container=$(find "$pod" -mindepth 1 -maxdepth 1 -type d | while read -r d; do
        [ "$(cat "$d/memory.max")" = 67108864 ] && echo "$d"
    done | head -n 1)
    equal "the pod's memory.max" "$(cat "$pod/memory.max")" 67108864 &&
        equal "the pod's cpu.max" "$(cat "$pod/cpu.max")" '25000 100000' &&
        equal "the pod's class" "$(basename "$(dirname "$pod")")" burstable &&
        equal "the container's cpu.max" "$(cat "$container/cpu.max")" '25000 100000' &&
        equal "the container's memory.oom.group" "$(cat "$container/memory.oom.group")" 1 &&
        equal "the guaranteed pod's class" "$(basename "$(dirname "$(group guaranteed)")")" kubepods &&
        equal "the best-effort pod's cpu.weight" "$(cat "$(group best)/cpu.weight")" 1
}

own_view() { # a container sees its own cgroup as the root
    equal "cgroup seen inside" "$(kubectl_cluster exec limited -- cat /proc/self/cgroup)" 0::/ &&
        equal "limit seen inside" "$(kubectl_cluster exec limited -- cat /sys/fs/cgroup/memory.max)" 67108864
}

oom() {
    local seconds
    for seconds in $(seq 120); do
        [ "$(kubectl_cluster get pod greedy -o 'jsonpath={.status.phase}')" = Failed ] && break
        sleep 1
    done
    equal "reason after $seconds s" \
        "$(kubectl_cluster get pod greedy -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason}')" OOMKilled &&
        equal "exit code" \
            "$(kubectl_cluster get pod greedy -o 'jsonpath={.status.containerStatuses[0].state.terminated.exitCode}')" 137
}

stats() {
    local node text
    node=$(kubectl_cluster get nodes -o 'jsonpath={.items[0].metadata.name}')
    text=$(kubectl_cluster get --raw "/api/v1/nodes/$node/proxy/metrics/resource")
    echo "$text" | grep -E 'container_memory_working_set_bytes\{container="main",namespace="default",pod="limited"\} [1-9]' &&
        echo "$text" | grep -E 'container_cpu_usage_seconds_total\{container="main",namespace="default",pod="limited"\} [0-9.]*[1-9]'
}

resize() {
    kubectl_cluster patch pod limited --subresource resize -p \
        '{"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"500m"}}}]}}' || return
    local seconds
    for seconds in $(seq 30); do
        [ "$(cat "$(group limited)/cpu.max")" = '50000 100000' ] && return
        sleep 1
    done
    equal "the pod's cpu.max after $seconds s" "$(cat "$(group limited)/cpu.max")" '50000 100000'
}

gone() {
    local group
    group=$(group limited)
    kubectl_cluster delete pod limited --timeout=60s && [ ! -e "$group" ]
}

service() {
    kubectl_cluster apply -f /payload/deployment.yaml && kubectl_cluster rollout status deployment/hello --timeout=180s &&
        nsenter --net=/run/netns/vm-outside busybox wget -q -O - "http://$(knarr status --name vm -o json |
            sed -n 's/^ *"address": "\(.*\)",$/\1/p' | head -n 1):30080/" | grep 'Hello from'
}

# The machine's clock is set: no node is lost and no container ended or started again for that, and what was to last, lasts.
clock_is_set() { # clock_is_set SECONDS: to what it says and so many more
    local name=clock$1 begun lasted
    kubectl_cluster apply -f - <<YAML && kubectl_cluster wait pod "$name" --for=condition=Ready --timeout=60s || return
apiVersion: v1
kind: Pod
metadata: {name: $name}
spec:
  terminationGracePeriodSeconds: 90
  containers:
  - name: main
    image: localhost/hello:1
    lifecycle: {preStop: {sleep: {seconds: 20}}}
YAML
    kubectl_cluster delete pod "$name" --wait=false
    until kubectl_cluster get events --field-selector "reason=Killing,involvedObject.name=$name" -o name | grep -q .; do sleep 0.2; done
    begun=$(cut -d . -f 1 /proc/uptime)
    date -s "@$(($(date +%s) + $1))" || return
    # Whoever looks after the pod and its node looks now.
    kubectl_cluster annotate pod "$name" "clock=$1" && kubectl_cluster annotate node --all --overwrite "clock=$1" || return
    kubectl_cluster wait pod "$name" --for=delete --timeout=120s || return
    lasted=$(($(cut -d . -f 1 /proc/uptime) - begun))
    [ $lasted -ge 15 ] && [ $lasted -le 45 ] || { echo "the preStop hook of 20 s lasted $lasted s" >&2 && return 1; }
    equal "nodes that were lost" "$(kubectl_cluster get events -A --field-selector reason=NodeNotReady -o name)" '' &&
        equal "restarts" "$(kubectl_cluster get pods guaranteed best -o 'jsonpath={.items[*].status.containerStatuses[*].restartCount}')" '0 0' &&
        equal "containers that are ready" "$(kubectl_cluster get pods guaranteed best -o 'jsonpath={.items[*].status.containerStatuses[*].ready}')" 'true true'
}
clocks() { clock_is_set 7200 && clock_is_set -3600 && clock_is_set -3590; }

down_leaves_nothing() {
    knarr down --name vm || return
    traces >/tmp/after
    diff /tmp/before /tmp/after
}

check "this machine has cgroup v2 only" v2_only
for test in /payload/tests/*; do
    [ ! -e "$test" ] || check "tests: ${test##*/}" suite "${test##*/}"
done
traces >/tmp/before
check "knarr up" cluster_up
check "pods of all three classes become ready" apply_pods
check "limits are in the cgroups' files" limits
check "containers see their own cgroup" own_view
check "a container over its memory is OOMKilled" oom
check "statistics are counted" stats
check "a resize changes the cgroups" resize
check "a deleted pod's cgroups are gone" gone
check "a Deployment answers on its node port" service
check "the clock is set two hours on, and back" clocks
check "knarr down leaves nothing" down_leaves_nothing
exit $failed
