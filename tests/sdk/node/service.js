// The real Azure service SDK for Node against a Twinward hub: registry, twins, queries,
// configurations, jobs, errors.
//
// Needs TWINWARD_SERVICE_CONNECTION_STRING, TWINWARD_HTTPS_PORT, and NODE_EXTRA_CA_CERTS for the
// hub's authority. Prints the name of each step that held; ends with a trace at the first that did
// not.
'use strict';

const assert = require('assert');
const { Registry, JobClient } = require('azure-iothub');

// The SDK passes HostName to DNS, so it may carry no port; `redirect.js` knows it.
const HUB = process.env.TWINWARD_SERVICE_CONNECTION_STRING.replace(/(HostName=[^;:]+):\d+/, '$1');
const registry = Registry.fromConnectionString(HUB);
const jobs = JobClient.fromConnectionString(HUB);

async function refused(kind, code, call) {
  try {
    await call();
  } catch (error) {
    // By name: packages of the SDK may each have a copy of the class.
    if (kind) assert.strictEqual(error.name, kind, error.message);
    const body = error.responseBody || '';
    assert(body.includes(`ErrorCode:${code};`), body);
    return;
  }
  assert.fail(`${code} was not answered`);
}

/** All pages of a query, and how many there were. */
async function all(query) {
  const rows = [];
  let pages = 0;
  while (query.hasMoreResults) {
    // Asked for nothing, `next` begins anew.
    rows.push(...(await query.next(query.continuationToken)).result);
    pages += 1;
  }
  return { rows, pages };
}

async function devices() {
  const made = (await registry.create({ deviceId: 'node+1', status: 'enabled' })).responseBody;
  assert.strictEqual(made.deviceId, 'node+1');
  assert.strictEqual(made.authentication.symmetricKey.primaryKey.length, 44);
  await refused('DeviceAlreadyExistsError', 'DeviceAlreadyExists', () =>
    registry.create({ deviceId: 'node+1' }),
  );
  made.status = 'disabled';
  made.statusReason = 'maintenance';
  const updated = (await registry.update(made)).responseBody;
  assert.strictEqual(updated.statusReason, 'maintenance');
  const read = (await registry.get('node+1')).responseBody;
  assert.strictEqual(read.status, 'disabled');
  assert.strictEqual(read.etag, updated.etag);
  const listed = (await registry.list()).responseBody.map((device) => device.deviceId);
  assert(listed.includes('node+1'), listed);
  await refused('DeviceNotFoundError', 'DeviceNotFound', () => registry.get('nobody'));
  await refused('ArgumentError', 'ArgumentInvalid', () => registry.get('no blank'));
  const added = (
    await registry.addDevices([0, 1, 2, 3, 4].map((number) => ({ deviceId: `node-${number}` })))
  ).responseBody;
  assert.strictEqual(added.isSuccessful, true, JSON.stringify(added));
  const counts = (await registry.getRegistryStatistics()).responseBody;
  assert(counts.totalDeviceCount >= 6, JSON.stringify(counts));
}

async function modules() {
  const made = (await registry.addModule({ deviceId: 'node-0', moduleId: 'camera' })).responseBody;
  assert.strictEqual(made.moduleId, 'camera');
  await refused('DeviceAlreadyExistsError', 'ModuleAlreadyExistsOnDevice', () =>
    registry.addModule({ deviceId: 'node-0', moduleId: 'camera' }),
  );
  made.managedBy = 'me';
  const updated = (await registry.updateModule(made, true)).responseBody;
  assert.strictEqual(updated.managedBy, 'me');
  const listed = (await registry.getModulesOnDevice('node-0')).responseBody;
  assert(listed.some((module) => module.moduleId === 'camera'));
  const twin = (
    await registry.updateModuleTwin('node-0', 'camera', { properties: { desired: { fps: 5 } } }, '*')
  ).responseBody;
  assert.strictEqual(twin.properties.desired.fps, 5);
  await registry.removeModule('node-0', 'camera');
  await assert.rejects(registry.getModule('node-0', 'camera'));
}

async function twins() {
  const twin = (await registry.getTwin('node-0')).responseBody;
  assert.strictEqual(twin.properties.desired.$version, 1);
  await twin.update({ tags: { group: 'node', number: 0 }, properties: { desired: { a: 1, b: 2 } } });
  const patched = (await registry.getTwin('node-0')).responseBody;
  assert.deepStrictEqual(patched.tags, { group: 'node', number: 0 });
  assert.strictEqual(patched.properties.desired.$version, 2);
  // `null` empties a section.
  const emptied = (await registry.updateTwin('node-0', { properties: { desired: null } }, '*'))
    .responseBody;
  assert.strictEqual(emptied.properties.desired.a, undefined);
  await refused('InvalidEtagError', 'PreconditionFailed', () =>
    registry.updateTwin('node-0', { tags: { x: 1 } }, 'AAAA'),
  );
  for (const number of [1, 2, 3, 4]) {
    await registry.updateTwin(`node-${number}`, { tags: { group: 'node', number } }, '*');
  }
}

async function queries() {
  const { rows, pages } = await all(
    registry.createQuery("SELECT * FROM devices WHERE tags.group = 'node'", 2),
  );
  assert.deepStrictEqual(
    rows.map((twin) => twin.deviceId).sort(),
    [0, 1, 2, 3, 4].map((number) => `node-${number}`),
  );
  assert.strictEqual(pages, 3);
  const counted = await all(
    registry.createQuery("SELECT COUNT() AS n FROM devices WHERE tags.group = 'node'"),
  );
  assert.deepStrictEqual(counted.rows, [{ n: 5 }]);
  await refused('ArgumentError', 'ArgumentInvalid', () =>
    registry.createQuery('SELECT * FROM devices WHERE').next(),
  );
}

async function configurations() {
  const made = (
    await registry.addConfiguration({
      id: 'node-config',
      schemaVersion: '1.0',
      labels: { app: 'test' },
      content: { deviceContent: { 'properties.desired.chiller': { t: 20 } } },
      targetCondition: "tags.group = 'node'",
      priority: 10,
      metrics: { queries: { low: 'SELECT deviceId FROM devices WHERE tags.number < 2' } },
    })
  ).responseBody;
  assert.strictEqual(made.etag, 'MQ==');
  await refused('DeviceAlreadyExistsError', 'ConfigurationAlreadyExists', () =>
    registry.addConfiguration({ id: 'node-config' }),
  );
  const read = (await registry.getConfiguration('node-config')).responseBody;
  const until = Date.now() + 30000;
  for (;;) {
    const { results } = (await registry.getConfiguration('node-config')).responseBody.systemMetrics;
    if (results.targetedCount === 5 && results.appliedCount === 5) break;
    assert(Date.now() < until, `it is not carried out: ${JSON.stringify(results)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  const twin = (await registry.getTwin('node-0')).responseBody;
  assert.deepStrictEqual(twin.properties.desired.chiller, { t: 20 });
  assert.deepStrictEqual(twin.configurations, { 'node-config': { status: 'Applied' } });
  assert.deepStrictEqual(read.metrics.results, { low: 2 });
  read.priority = 20;
  const updated = (await registry.updateConfiguration(read)).responseBody;
  assert.strictEqual(updated.priority, 20);
  await refused('InvalidEtagError', 'PreconditionFailed', () =>
    registry.updateConfiguration(read),
  );
  const changed = { ...updated, content: { deviceContent: { 'properties.desired.x': 1 } } };
  await refused('ArgumentError', 'CannotModifyImmutableConfigurationContent', () =>
    registry.updateConfiguration(changed, true),
  );
  const listed = (await registry.getConfigurations()).responseBody;
  assert.deepStrictEqual(
    listed.map((one) => one.id),
    ['node-config'],
  );
  await refused('ArgumentError', 'InvalidConfigurationContent', () =>
    registry.applyConfigurationContentOnDevice('node-0', { modulesContent: {} }),
  );
  await registry.removeConfiguration('node-config');
  await assert.rejects(registry.getConfiguration('node-config'));
}

async function ended(id) {
  const until = Date.now() + 30000;
  for (;;) {
    const job = (await jobs.getJob(id)).jobStatus;
    if (['completed', 'failed', 'cancelled'].includes(job.status)) return job;
    assert(Date.now() < until, `the job ${id} does not end: ${JSON.stringify(job)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function scheduled() {
  const patch = { etag: '*', tags: { done: true }, properties: { desired: { fps: 9 } } };
  const begun = await jobs.scheduleTwinUpdate('node-job', "tags.group = 'node'", patch, new Date(), 60);
  assert.strictEqual(begun.jobStatus.jobId, 'node-job');
  const done = await ended('node-job');
  assert.strictEqual(done.status, 'completed');
  assert.strictEqual(done.deviceJobStatistics.succeededCount, 5);
  assert.strictEqual((await registry.getTwin('node-4')).responseBody.tags.done, true);
  const far = new Date(Date.now() + 3600 * 1000);
  for (const id of ['node-far', 'node-farther']) {
    const waits = await jobs.scheduleTwinUpdate(id, '*', patch, far, 60);
    assert.strictEqual(waits.jobStatus.status, 'scheduled');
  }
  assert.strictEqual((await jobs.cancelJob('node-far')).jobStatus.status, 'cancelled');
  const ids = (found) => found.rows.map((job) => job.jobId).sort();
  const everyone = await all(jobs.createQuery(undefined, undefined, 1));
  assert.deepStrictEqual(ids(everyone), ['node-far', 'node-farther', 'node-job']);
  assert(everyone.pages >= 3, everyone.pages);
  assert.deepStrictEqual(ids(await all(jobs.createQuery('scheduleUpdateTwin', 'scheduled'))), [
    'node-farther',
  ]);
  await jobs.cancelJob('node-farther');
  const rows = await all(
    registry.createQuery("SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'node-job'"),
  );
  assert.strictEqual(rows.rows.length, 5);
  assert(rows.rows.every((row) => row.status === 'completed'));
  await refused(null, 'JobNotFound', () => jobs.getJob('nothing'));
}

async function rights() {
  const wrong = Registry.fromConnectionString(
    HUB.replace('SharedAccessKey=', 'SharedAccessKey=AAAA'),
  );
  await refused('UnauthorizedError', 'IotHubUnauthorizedAccess', () => wrong.get('node-0'));
}

async function main() {
  for (const step of [devices, modules, twins, queries, configurations, scheduled, rights]) {
    await step();
    console.log('ok', step.name);
  }
  console.log('ok all');
}

main().catch((error) => {
  console.error(error, error.responseBody || '');
  process.exit(1);
});
