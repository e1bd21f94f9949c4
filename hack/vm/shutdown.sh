#!/bin/bash
# Runs inside a virtual machine, from /payload: a server as a service, with a graceful shutdown, and two pods whose ends the
# machine's console tells of. What it prints is what the machine says before it is switched off; hack/vm-test does that.
set -eu
export PATH=/payload/bin:$PATH KUBECONFIG=/var/lib/knarr-server/admin.kubeconfig
mkdir -p /etc/knarr
cat >/etc/knarr/kubelet.yaml <<'YAML'
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
shutdownGracePeriod: 60s
shutdownGracePeriodCriticalPods: 20s
YAML
# A unit names the program that made it: one that is there when the machine goes down.
mkdir -p /opt/knarr/bin
cp /payload/bin/* /opt/knarr/bin/
/opt/knarr/bin/knarr install-service server -- --advertise-address 10.77.0.11 --node-name vm-test --kubelet-config /etc/knarr/kubelet.yaml
for _ in $(seq 120); do
    kubectl wait node vm-test --for=condition=Ready --timeout=1s >/dev/null 2>&1 && break
    sleep 1
done
knarr image load /payload/hello.tar --root /var/lib/knarr-server/node/runtime
pod() { # pod NAMESPACE NAME PRIORITY
    kubectl apply -f - <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $2, namespace: $1}
spec:
  priorityClassName: $3
  terminationGracePeriodSeconds: 50
  containers:
  - name: main
    image: localhost/hello:1
    securityContext: {privileged: true}
    command:
    - sh
    - -c
    - 'trap "echo pod $2 ends >/dev/ttyS0; sleep 3; echo pod $2 ended >/dev/ttyS0; exit 0" TERM; while true; do sleep 0.2; done'
YAML
}
kubectl create -f - <<'YAML'
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: usual}
value: 0
YAML
pod default ordinary usual
pod kube-system critical system-node-critical
kubectl wait pod ordinary --for=condition=Ready --timeout=120s
kubectl wait pod critical -n kube-system --for=condition=Ready --timeout=120s
for _ in $(seq 30); do
    systemd-inhibit --list --no-legend | grep kubelet && exit
    sleep 1
done
echo "the kubelet delays no shutdown" >&2
exit 1
