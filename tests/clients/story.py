"""A Deployment's life through the official Python client: create, list, watch, patch, delete."""

import sys
import threading

from kubernetes import client, config, watch

config.load_kube_config(sys.argv[1])
apps, core = client.AppsV1Api(), client.CoreV1Api()
labels = {"app": "web"}
body = {
    "metadata": {"name": "python-web"},
    "spec": {
        "replicas": 1,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    },
}

before = apps.list_namespaced_deployment("default")
seen = []


def follow():
    stream = watch.Watch()
    since = before.metadata.resource_version
    for event in stream.stream(apps.list_namespaced_deployment, "default", resource_version=since, timeout_seconds=20):
        seen.append((event["type"], event["object"].spec.replicas))
        if event["type"] == "DELETED":
            stream.stop()


follower = threading.Thread(target=follow)
follower.start()
made = apps.create_namespaced_deployment("default", body)
assert made.metadata.uid and made.spec.strategy.type == "RollingUpdate", made
names = [item.metadata.name for item in apps.list_namespaced_deployment("default", label_selector="").items]
assert "python-web" in names, names
patched = apps.patch_namespaced_deployment("python-web", "default", {"spec": {"replicas": 3}})
assert patched.spec.replicas == 3 and patched.metadata.generation == 2, patched
scale = apps.read_namespaced_deployment_scale("python-web", "default")
assert scale.spec.replicas == 3, scale
try:
    apps.create_namespaced_deployment("default", body)
    raise AssertionError("created twice")
except client.ApiException as error:
    assert error.status == 409, error
core.create_namespaced_config_map("default", {"metadata": {"name": "python"}, "data": {"k": "v"}})
assert core.read_namespaced_config_map("python", "default").data == {"k": "v"}
core.delete_namespaced_config_map("python", "default")
apps.delete_namespaced_deployment("python-web", "default", propagation_policy="Background")
follower.join(20)
assert seen == [("ADDED", 1), ("MODIFIED", 3), ("DELETED", 3)], seen
print("python: ok")
