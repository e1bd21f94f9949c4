// A Deployment's life through the official JavaScript client: create, list, watch, patch, delete.
import assert from 'node:assert/strict';
import * as k8s from '@kubernetes/client-node';

const config = new k8s.KubeConfig();
config.loadFromFile(process.argv[2]);
const apps = config.makeApiClient(k8s.AppsV1Api);
const namespace = 'default';
const name = 'node-web';
const labels = { app: 'web' };
const body = {
  metadata: { name },
  spec: {
    replicas: 1,
    selector: { matchLabels: labels },
    template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'i' }] } },
  },
};

const before = await apps.listNamespacedDeployment({ namespace });
const seen = [];
const followed = new Promise((resolve, reject) => {
  const path = `/apis/apps/v1/namespaces/${namespace}/deployments`;
  const options = { resourceVersion: before.metadata.resourceVersion, timeoutSeconds: 20 };
  const stream = new k8s.Watch(config).watch(
    path,
    options,
    (type, object) => {
      seen.push([type, object.spec.replicas]);
      if (type === 'DELETED') stream.then((controller) => { controller.abort(); resolve(); });
    },
    (error) => (seen.at(-1)?.[0] === 'DELETED' ? resolve() : reject(error ?? new Error('the watch ended early'))),
  );
});
const made = await apps.createNamespacedDeployment({ namespace, body });
assert.equal(made.spec.strategy.type, 'RollingUpdate');
const list = await apps.listNamespacedDeployment({ namespace });
assert(list.items.some((item) => item.metadata.name === name));
const merge = k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.MergePatch);
const patched = await apps.patchNamespacedDeployment({ namespace, name, body: { spec: { replicas: 3 } } }, merge);
assert.deepEqual([patched.spec.replicas, patched.metadata.generation], [3, 2]);
await assert.rejects(apps.createNamespacedDeployment({ namespace, body }), (error) => error.code === 409);
await apps.deleteNamespacedDeployment({ namespace, name, propagationPolicy: 'Background' });
await followed;
assert.deepEqual(seen, [['ADDED', 1], ['MODIFIED', 3], ['DELETED', 3]]);
console.log('node: ok');
process.exit(0);
