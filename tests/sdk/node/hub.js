// A hub for one suite: `twinward up` on a loopback address of its own, because device SDKs know no
// other ports than 8883 and 443.
'use strict';

const assert = require('assert');
const { execFileSync, spawn } = require('child_process');
const fs = require('fs');
const https = require('https');
const net = require('net');
const os = require('os');
const path = require('path');

const PROGRAM = process.env.TWINWARD_BIN;
const SOON = 60_000;

// The service SDK takes no authority of its own, and Node reads its variable for one before the hub has
// made it: so each request to a hub of ours is told whom to trust, and nothing else is changed.
const trusted = new Map();
const request = https.request;
https.request = function (options, ...rest) {
  const host = typeof options === 'object' && (options.hostname || options.host);
  const ca = trusted.get(host);
  return request.call(this, ca ? { ca, ...options } : options, ...rest);
};

/** What `look` sees, as soon as it sees something. */
async function waitFor(what, look) {
  const until = Date.now() + SOON;
  while (Date.now() < until) {
    const seen = await look();
    if (seen) return seen;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`gave up waiting for ${what}`);
}

function isFree(host, port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', () => resolve(false));
    server.listen({ host, port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

async function freeAddress() {
  const any = (from, to) => from + Math.floor(Math.random() * (to - from + 1));
  for (let attempt = 0; attempt < 100; attempt += 1) {
    const address = `127.${any(1, 254)}.${any(0, 254)}.${any(1, 254)}`;
    if ((await isFree(address, 8883)) && (await isFree(address, 443))) return address;
  }
  throw new Error('no loopback address has its ports 8883 and 443 free for us');
}

class Hub {
  static async start() {
    const hub = new Hub();
    hub.path = fs.mkdtempSync(path.join(os.tmpdir(), 'twinward-node-'));
    hub.address = await freeAddress();
    hub.devices = path.join(hub.path, 'devices');
    hub.certificate('unused');
    const config = `[ingestion]\ndevice_ca_file = "${hub.devices}/ca.pem"\n`;
    fs.writeFileSync(path.join(hub.path, 'up.toml'), config);
    await hub.up();
    return hub;
  }

  get envFile() {
    return path.join(this.path, 'hub.env');
  }

  async up() {
    const options = ['up', '--any-port', '--data-dir', path.join(this.path, 'data')];
    options.push('--env-file', this.envFile, '--host', this.address);
    options.push('--mqtt-listen', `${this.address}:8883`);
    options.push('--gateway-listen', `${this.address}:443`);
    options.push('--config', path.join(this.path, 'up.toml'));
    const log = fs.openSync(path.join(this.path, 'up.log'), 'a');
    this.process = spawn(PROGRAM, options, { stdio: ['ignore', log, log] });
    fs.closeSync(log);
    await waitFor('the hub', () => {
      assert.strictEqual(this.process.exitCode, null, this.log());
      return fs.existsSync(this.envFile);
    });
    this.variables = {};
    for (const line of fs.readFileSync(this.envFile, 'utf8').split('\n')) {
      const found = /^export ([A-Z_]+)=(.*)$/.exec(line);
      if (found) this.variables[found[1]] = found[2].replace(/^'|'$/g, '');
    }
    this.ca = fs.readFileSync(this.variables.TWINWARD_CA_FILE, 'utf8');
    trusted.set(this.address, this.ca);
  }

  log() {
    return fs.readFileSync(path.join(this.path, 'up.log'), 'utf8');
  }

  async down() {
    const ended = new Promise((resolve) => this.process.once('exit', resolve));
    this.process.kill('SIGTERM');
    assert.strictEqual(await ended, 0, this.log());
  }

  async close() {
    if (this.process.exitCode === null) await this.down();
    fs.rmSync(this.path, { recursive: true });
  }

  /** The files of a certificate that the hub's authority of devices has signed. */
  certificate(identity) {
    execFileSync(PROGRAM, ['certs', 'device', identity, '--dir', this.devices, '--file', 'last']);
    const read = (name) => fs.readFileSync(path.join(this.devices, name), 'utf8');
    return { cert: read('last.pem'), key: read('last.key') };
  }

  /** What a verb of the command line answers. */
  cli(...verb) {
    const options = ['--env-file', this.envFile, '-o', 'json', ...verb];
    return JSON.parse(execFileSync(PROGRAM, options, { encoding: 'utf8' }));
  }

  /** The same while this program serves a device, which must not wait for it. */
  ask(...verb) {
    return new Promise((resolve, reject) => {
      const options = ['--env-file', this.envFile, '-o', 'json', ...verb];
      const asked = spawn(PROGRAM, options);
      let [out, wrong] = ['', ''];
      asked.stdout.on('data', (part) => (out += part));
      asked.stderr.on('data', (part) => (wrong += part));
      asked.on('close', (code) => {
        if (code === 0) resolve(JSON.parse(out));
        else reject(new Error(wrong));
      });
    });
  }

  /** Creates a device; its connection string, if it has keys. */
  create(device, ...options) {
    const made = this.cli('device', 'create', device, '--no-security-module', ...options);
    return made.connectionString;
  }
}

module.exports = { Hub, PROGRAM, waitFor };
