// Azure's Node provisioning client, unmodified: registers a device by a key or a certificate, and says in
// one line of JSON what came of it.
//
// A program of its own, because this SDK takes no authority but those that Node was started with. Needs
// NODE_EXTRA_CA_CERTS; its arguments are the host, the id scope, the registration id, and either a key or
// the files of a certificate and of its key.
'use strict';

const fs = require('fs');
const { ProvisioningDeviceClient } = require('azure-iot-provisioning-device');
const { Mqtt, MqttWs } = require('azure-iot-provisioning-device-mqtt');
const { SymmetricKeySecurityClient } = require('azure-iot-security-symmetric-key');

/** What a certificate's program would be: the SDK's own package for it is not needed. */
class CertificateClient {
  constructor(registration, certificate) {
    this.registration = registration;
    this.certificate = certificate;
  }

  getRegistrationId() {
    return this.registration;
  }

  getCertificate(callback) {
    callback(null, this.certificate);
  }
}

async function main() {
  const [way, host, scope, registration, first, second] = process.argv.slice(2);
  const transport = way === 'ws' ? new MqttWs() : new Mqtt();
  const read = (file) => fs.readFileSync(file, 'utf8');
  const security = second
    ? new CertificateClient(registration, { cert: read(first), key: read(second) })
    : new SymmetricKeySecurityClient(registration, first);
  const client = ProvisioningDeviceClient.create(host, scope, transport, security);
  client.setProvisioningPayload({ model: 'x' });
  return client.register().catch((error) => ({ refused: error.name, message: error.message }));
}

main().then(
  (result) => {
    console.log(JSON.stringify(result));
    process.exit(0);
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
