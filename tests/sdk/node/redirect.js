// Loaded before the program (`node --require`): the Azure SDKs for Node know no other ports than 443
// and 8883, and a test may not bind those. What they connect to is sent to the hub's real ports, and
// nothing else is changed.
'use strict';

const https = require('https');
const tls = require('tls');

const ports = new Map();
for (const [known, variable] of [
  [443, 'TWINWARD_HTTPS_PORT'],
  [8883, 'TWINWARD_MQTTS_PORT'],
]) {
  const real = Number(process.env[variable]);
  if (real) ports.set(known, real);
}

function redirected(options) {
  const port = Number(options.port || options.defaultPort || 443);
  return ports.has(port) ? { ...options, port: ports.get(port) } : options;
}

const request = https.request;
https.request = function (options, ...rest) {
  return request.call(this, typeof options === 'object' ? redirected(options) : options, ...rest);
};

const connect = tls.connect;
tls.connect = function (options, ...rest) {
  if (typeof options === 'object' && options.port && !options.socket) {
    return connect.call(this, redirected(options), ...rest);
  }
  return connect.call(this, options, ...rest);
};
