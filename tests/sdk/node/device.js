// Azure's Node device SDK, unmodified, against a Twinward hub: keys and certificates, MQTT and MQTT
// over WebSocket, telemetry, twins, methods, messages from the cloud, reconnects, a restart.
//
// Needs TWINWARD_BIN. Prints the name of each step that held; ends with a trace at the first that did
// not.
'use strict';

const assert = require('assert');
const { execFileSync } = require('child_process');
const { X509Certificate } = require('crypto');
const fs = require('fs');
const path = require('path');
const { Client, Message, ModuleClient } = require('azure-iot-device');
const { JobClient, Registry } = require('azure-iothub');
const { Mqtt, MqttWs } = require('azure-iot-device-mqtt');
const { Hub, PROGRAM, waitFor } = require('./hub');

let hub;
const open = new Set();

async function connected(connection, transport = Mqtt, options = {}) {
  const client = Client.fromConnectionString(connection, transport);
  await client.setOptions({ ca: hub.ca, ...options });
  await client.open();
  open.add(client);
  return client;
}

async function left(client) {
  open.delete(client);
  await client.close();
}

/** What comes of an emitter, in order, for whoever waits. */
function queue(emitter, event, take = (it) => it) {
  const seen = [];
  emitter.on(event, (it) => seen.push(take(it)));
  return { next: async () => (await waitFor(event, () => seen.length > 0)) && seen.shift(), seen };
}

async function isRefused(name, promise) {
  const error = await promise.then(
    () => assert.fail('it was let in'),
    (refused) => refused,
  );
  assert.strictEqual(error.name, name, error.stack);
}

async function telemetry() {
  for (const [name, transport] of [
    ['node-mqtt', Mqtt],
    ['node-ws', MqttWs],
  ]) {
    const client = await connected(hub.create(name), transport);
    for (const size of [1, 1000, 200_000]) {
      const message = new Message('x'.repeat(size));
      message.properties.add('colour', 'red & blue');
      message.contentType = 'text/plain';
      // Returns when the hub has acknowledged it.
      await client.sendEvent(message);
    }
    await left(client);
  }
}

async function wrongKeys() {
  const right = hub.create('node-keyed');
  const wrong = right.replace(/SharedAccessKey=.*/, `SharedAccessKey=${'QUFB'.repeat(10)}QUE=`);
  for (const transport of [Mqtt, MqttWs]) {
    await isRefused('UnauthorizedError', connected(wrong, transport));
  }
}

async function certificates() {
  const by = (name) => `HostName=${hub.address};DeviceId=${name};x509=true`;
  // Signed by the device itself.
  const own = path.join(hub.path, 'own');
  execFileSync(PROGRAM, ['certs', 'init', '--dir', own, '--client', 'device']);
  const read = (name) => fs.readFileSync(path.join(own, name), 'utf8');
  const mine = { cert: read('device.pem'), key: read('device.key') };
  const thumbprint = new X509Certificate(mine.cert).fingerprint256.replaceAll(':', '');
  hub.create('node-own', '--thumbprint', thumbprint);
  // Signed by an authority that the hub trusts.
  hub.create('node-signed', '--auth', 'ca');
  const signed = hub.certificate('node-signed');
  for (const transport of [Mqtt, MqttWs]) {
    for (const [name, shown] of [
      ['node-own', mine],
      ['node-signed', signed],
    ]) {
      const client = await connected(by(name), transport, shown);
      await client.sendEvent(new Message('hello'));
      assert((await client.getTwin()).properties.desired.$version >= 1);
      await left(client);
    }
    await isRefused('UnauthorizedError', connected(by('node-own'), transport, signed));
  }
}

async function twins() {
  for (const [name, transport] of [
    ['twin-mqtt', Mqtt],
    ['twin-ws', MqttWs],
  ]) {
    const client = await connected(hub.create(name), transport);
    const twin = await client.getTwin();
    const told = queue(twin, 'properties.desired', (delta) => ({ ...delta }));
    // The SDK tells what is there already, first.
    assert.strictEqual((await told.next()).$version, 1);
    hub.cli('twin', 'patch', name, '--desired', '{"interval": 5, "nested": {"a": [1, "ö"]}}');
    const wanted = { interval: 5, nested: { a: [1, 'ö'] }, $version: 2 };
    assert.deepStrictEqual(await told.next(), wanted);
    hub.cli('twin', 'patch', name, '--desired', '{"interval": null}');
    assert.deepStrictEqual(await told.next(), { interval: null, $version: 3 });
    const report = (patch) =>
      new Promise((resolve, reject) =>
        twin.properties.reported.update(patch, (error) => (error ? reject(error) : resolve())),
      );
    await report({ interval: 5, nested: { a: 1 } });
    await report({ nested: null });
    const reported = hub.cli('twin', 'get', name).properties.reported;
    assert.strictEqual(reported.interval, 5);
    assert(!('nested' in reported));
    await assert.rejects(report({ 'not.allowed': 1 }));
    await left(client);
  }
}

async function methods() {
  for (const [name, transport] of [
    ['called-mqtt', Mqtt],
    ['called-ws', MqttWs],
  ]) {
    const client = await connected(hub.create(name), transport);
    client.onDeviceMethod('set', (request, response) => {
      response.send(201, { got: request.payload }, (error) => assert.ifError(error));
    });
    const call = () => hub.ask('device', 'invoke', name, 'set', '--payload', '{"level": 3}');
    // It subscribes in the background.
    const answered = await waitFor('the method', () => call().catch(() => false));
    assert.deepStrictEqual(answered, { status: 201, payload: { got: { level: 3 } } });
    await left(client);
  }
}

async function methodJobs() {
  const service = hub.variables.TWINWARD_SERVICE_CONNECTION_STRING;
  const jobs = JobClient.fromConnectionString(service);
  const client = await connected(hub.create('job-there'));
  client.onDeviceMethod('reboot', (request, response) => {
    response.send(207, { got: request.payload }, (error) => assert.ifError(error));
  });
  const call = () => hub.ask('device', 'invoke', 'job-there', 'reboot');
  await waitFor('the method', () => call().catch(() => false));
  hub.create('job-away');
  const method = { methodName: 'reboot', payload: { now: true }, responseTimeoutInSeconds: 20 };
  const who = "deviceId IN ['job-there', 'job-away']";
  const begun = await jobs.scheduleDeviceMethod('node-reboot', who, method, new Date(), 120);
  assert.strictEqual(begun.jobStatus.type, 'scheduleDeviceMethod');
  const job = await waitFor('the job', async () => {
    const found = (await jobs.getJob('node-reboot')).jobStatus;
    return found.status === 'completed' && found;
  });
  assert.strictEqual(job.deviceJobStatistics.succeededCount, 1);
  assert.strictEqual(job.deviceJobStatistics.failedCount, 1);
  const registry = Registry.fromConnectionString(service);
  const query = registry.createQuery(
    "SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'node-reboot'",
  );
  const rows = new Map((await query.next()).result.map((row) => [row.deviceId, row]));
  const answered = rows.get('job-there');
  assert.strictEqual(answered.status, 'completed');
  const response = { status: 207, payload: { got: { now: true } } };
  assert.deepStrictEqual(answered.outcome.deviceMethodResponse, response);
  assert.strictEqual(rows.get('job-away').status, 'failed');
  assert.match(rows.get('job-away').error.description, /not connected/);
  await left(client);
}

async function messages() {
  for (const [name, transport] of [
    ['told-mqtt', Mqtt],
    ['told-ws', MqttWs],
  ]) {
    const connection = hub.create(name);
    // One that waits before the device has ever been there.
    hub.cli('device', 'send', name, 'first', '--property', 'kind=a & b', '--message-id', 'm-1');
    const client = await connected(connection, transport);
    const told = queue(client, 'message');
    const first = await told.next();
    assert.strictEqual(first.getData().toString(), 'first');
    assert.strictEqual(first.messageId, 'm-1');
    assert.strictEqual(first.properties.getValue('kind'), 'a & b');
    await client.complete(first);
    hub.cli('device', 'send', name, 'second');
    const second = await told.next();
    assert.strictEqual(second.getData().toString(), 'second');
    await client.complete(second);
    const waiting = () => hub.cli('device', 'messages', name).length;
    await waitFor('the queue to be empty', () => waiting() === 0);
    // Over MQTT there is no reject and no abandon, which the SDK says by itself.
    await assert.rejects(client.reject(second));
    await left(client);
  }
}

async function modules() {
  hub.create('node-housed');
  const made = hub.cli('module', 'create', 'node-housed', 'lens').connectionString;
  for (const transport of [Mqtt, MqttWs]) {
    const client = ModuleClient.fromConnectionString(made, transport);
    await client.setOptions({ ca: hub.ca });
    await client.open();
    open.add(client);
    const twin = await client.getTwin();
    const told = queue(twin, 'properties.desired', (delta) => ({ ...delta }));
    const { $version } = await told.next();
    hub.cli('twin', 'patch', 'node-housed/lens', '--desired', `{"zoom": ${$version}}`);
    assert.deepStrictEqual(await told.next(), { zoom: $version, $version: $version + 1 });
    await new Promise((resolve, reject) =>
      twin.properties.reported.update({ zoom: $version }, (error) =>
        error ? reject(error) : resolve(),
      ),
    );
    const { reported } = hub.cli('twin', 'get', 'node-housed/lens').properties;
    assert.strictEqual(reported.zoom, $version);
    client.onMethod('zoom', (_request, response) => response.send(200, 'done', () => {}));
    const call = () => hub.ask('module', 'invoke', 'node-housed', 'lens', 'zoom').catch(() => false);
    const answered = await waitFor('the method', call);
    assert.deepStrictEqual(answered, { status: 200, payload: 'done' });
    await left(client);
  }
  // The device's own twin is another.
  assert(!('zoom' in hub.cli('twin', 'get', 'node-housed').properties.reported));
}

async function models() {
  const modelId = 'dtmi:com:example:Camera;2';
  const client = await connected(hub.create('node-modelled'), Mqtt, { modelId });
  const shown = () => hub.cli('twin', 'get', 'node-modelled').modelId;
  await waitFor('the model', () => shown() === modelId);
  await left(client);
}

async function provisioning() {
  const scope = hub.variables.TWINWARD_DPS_ID_SCOPE;
  const register = (way, registration, ...proof) => {
    const script = path.join(__dirname, 'provisioning.js');
    const env = { ...process.env, NODE_EXTRA_CA_CERTS: hub.variables.TWINWARD_CA_FILE };
    const line = execFileSync(process.execPath, [script, way, hub.address, scope, registration, ...proof], {
      env,
      encoding: 'utf8',
    });
    return JSON.parse(line);
  };
  hub.cli('provisioning', 'create', 'node-plant', '--group', '--desired', '{"interval": 5}');
  for (const way of ['mqtt', 'ws']) {
    const id = `node-sn-${way}`;
    const key = hub.cli('provisioning', 'derive-keys', 'node-plant', id).primaryKey;
    const result = register(way, id, key);
    assert.strictEqual(result.status, 'assigned', JSON.stringify(result));
    assert.strictEqual(result.assignedHub, hub.address);
    assert.strictEqual(result.deviceId, id);
    const connection = `HostName=${result.assignedHub};DeviceId=${id};SharedAccessKey=${key}`;
    const client = await connected(connection);
    assert.strictEqual((await client.getTwin()).properties.desired.interval, 5);
    await left(client);
  }
  // By a certificate of its own.
  const directory = path.join(hub.path, 'node-x');
  execFileSync(PROGRAM, ['certs', 'init', '--dir', directory, '--client', 'node-x']);
  const [cert, key] = ['pem', 'key'].map((kind) => path.join(directory, `node-x.${kind}`));
  const shown = new X509Certificate(fs.readFileSync(cert)).fingerprint256.replaceAll(':', '');
  hub.cli('provisioning', 'create', 'node-x', '--thumbprint', shown);
  const known = register('mqtt', 'node-x', cert, key);
  assert.strictEqual(known.status, 'assigned', JSON.stringify(known));
  assert.strictEqual(known.deviceId, 'node-x');
  // The key of one device is not another's.
  const another = hub.cli('provisioning', 'derive-keys', 'node-plant', 'node-sn-x').primaryKey;
  const refused = register('mqtt', 'node-sn-y', another);
  assert.match(refused.message, /Not authorized/);
}

async function restart() {
  const client = await connected(hub.create('node-steadfast'));
  const told = queue(client, 'message');
  const twin = await client.getTwin();
  const desired = queue(twin, 'properties.desired', (delta) => ({ ...delta }));
  client.onDeviceMethod('ping', (_request, response) => response.send(200, 'pong', () => {}));
  await waitFor('the method', () =>
    hub.ask('device', 'invoke', 'node-steadfast', 'ping').catch(() => false),
  );
  hub.cli('device', 'send', 'node-steadfast', 'before');
  assert.strictEqual((await told.next()).getData().toString(), 'before');
  await hub.down();
  await hub.up();
  // The SDK comes back by itself, as it is.
  await client.sendEvent(new Message('still here'));
  hub.cli('device', 'send', 'node-steadfast', 'after');
  const texts = [];
  while (!texts.includes('after')) texts.push((await told.next()).getData().toString());
  hub.cli('twin', 'patch', 'node-steadfast', '--desired', '{"after": "the restart"}');
  while ((await desired.next()).after !== 'the restart');
  const answered = await waitFor('the method after the restart', () =>
    hub.ask('device', 'invoke', 'node-steadfast', 'ping').catch(() => false),
  );
  assert.strictEqual(answered.payload, 'pong');
  await left(client);
}

async function main() {
  hub = await Hub.start();
  try {
    const basics = [telemetry, wrongKeys, certificates, twins, methods, methodJobs, messages];
    const steps = [...basics, modules, models, provisioning];
    for (const step of [...steps, restart]) {
      await step();
      console.log(`ok ${step.name}`);
    }
    console.log('ok all');
  } finally {
    for (const client of open) await client.close().catch(() => {});
    await hub.close();
  }
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
