"""Azure's Python provisioning client, unmodified, against a hub of ours.

Device code as everybody writes it: the id scope, a registration id, and a key or a certificate. Then
the device connects to the hub that it was told.
"""

import base64
import hashlib
import hmac
import json
import ssl
import subprocess
import unittest
from pathlib import Path

from azure.iot.device import IoTHubDeviceClient, ProvisioningDeviceClient, X509, exceptions

from hub import PROGRAM, Hub


def derive(group_key, registration):
    """A device's key, as the documentation of the service derives it."""
    key = base64.b64decode(group_key)
    return base64.b64encode(hmac.digest(key, registration.encode(), hashlib.sha256)).decode()


class ProvisioningTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)
        cls.scope = cls.hub.variables["TWINWARD_DPS_ID_SCOPE"]

    def by_key(self, registration, key, scope=None):
        return ProvisioningDeviceClient.create_from_symmetric_key(
            provisioning_host=self.hub.address,
            registration_id=registration,
            id_scope=scope or self.scope,
            symmetric_key=key,
            server_verification_cert=self.hub.ca(),
        )

    def registered(self, client):
        result = client.register()
        self.assertEqual(result.status, "assigned")
        self.assertEqual(result.registration_state.assigned_hub, self.hub.address)
        return result.registration_state

    def connects(self, state, key):
        client = IoTHubDeviceClient.create_from_symmetric_key(
            symmetric_key=key,
            hostname=state.assigned_hub,
            device_id=state.device_id,
            server_verification_cert=self.hub.ca(),
        )
        self.addCleanup(client.shutdown)
        client.connect()
        return client.get_twin()

    def test_a_device_of_a_group(self):
        group = self.hub.cli(
            "provisioning", "create", "plant", "--group",
            "--tags", '{"site": "paris"}', "--desired", '{"interval": 5}',
        )  # fmt: skip
        key = derive(group["primaryKey"], "sn-1")
        derived = self.hub.cli("provisioning", "derive-keys", "plant", "sn-1")
        self.assertEqual(derived["primaryKey"], key)
        client = self.by_key("sn-1", key)
        client.provisioning_payload = {"model": "x"}
        state = self.registered(client)
        self.assertEqual((state.device_id, state.sub_status), ("sn-1", "initialAssignment"))
        twin = self.connects(state, key)
        self.assertEqual(twin["desired"]["interval"], 5)
        tags = json.loads(self.hub.cli("provisioning", "get", "plant", "--group")["tagsJson"])
        self.assertEqual(tags, {"site": "paris"})
        before = self.hub.cli("device", "get", "sn-1")
        modules = self.hub.cli("module", "list", "sn-1")
        self.assertIn("DefenderIotMicroAgent", json.dumps(modules))
        # Registering again finds the same device, with either of its keys.
        again = self.registered(self.by_key("sn-1", derive(group["secondaryKey"], "sn-1")))
        self.assertEqual(again.created_date_time, state.created_date_time)
        after = self.hub.cli("device", "get", "sn-1")
        self.assertEqual(after["generationId"], before["generationId"])
        # The group's own key is not a device's.
        with self.assertRaises(exceptions.CredentialError):
            self.by_key("sn-2", group["primaryKey"]).register()
        # Nor is anything a device's while the group is disabled.
        self.hub.cli("provisioning", "disable", "plant", "--group")
        with self.assertRaises(exceptions.CredentialError):
            self.by_key("sn-1", key).register()

    def test_a_single_device_with_a_name_of_its_own(self):
        made = self.hub.cli("provisioning", "create", "serial-7", "--device-id", "cam-7")
        state = self.registered(self.by_key("serial-7", made["primaryKey"]))
        self.assertEqual(state.device_id, "cam-7")
        self.assertIn("$version", self.connects(state, made["primaryKey"])["desired"])
        with self.assertRaises(exceptions.CredentialError):
            self.by_key("serial-7", made["primaryKey"], scope="0ne00000000").register()
        with self.assertRaises(exceptions.CredentialError):
            self.by_key("serial-8", made["primaryKey"]).register()

    def certificate(self, name):
        """The authority, and a certificate that it signed for this name."""
        directory = self.hub.path / name
        command = [PROGRAM, "certs", "init", "--dir", directory, "--client", name]
        subprocess.run(command, check=True, capture_output=True)
        shown = X509(
            cert_file=str(directory / f"{name}.pem"),
            key_file=str(directory / f"{name}.key"),
        )
        return directory, shown

    def by_certificate(self, name, shown):
        client = ProvisioningDeviceClient.create_from_x509_certificate(
            provisioning_host=self.hub.address,
            registration_id=name,
            id_scope=self.scope,
            x509=shown,
            server_verification_cert=self.hub.ca(),
        )
        state = self.registered(client)
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=shown,
            hostname=state.assigned_hub,
            device_id=state.device_id,
            server_verification_cert=self.hub.ca(),
        )
        self.addCleanup(client.shutdown)
        client.connect()
        return client.get_twin()

    def test_a_single_device_by_its_certificate(self):
        directory, shown = self.certificate("x-single")
        pem = (directory / "x-single.pem").read_text()
        thumbprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        self.hub.cli("provisioning", "create", "x-single", "--thumbprint", thumbprint)
        self.assertIn("$version", self.by_certificate("x-single", shown)["reported"])

    def test_a_device_of_a_group_by_its_authority(self):
        directory, shown = self.certificate("x-grouped")
        authority = str(directory / "ca.pem")
        self.hub.cli("provisioning", "create", "x-plant", "--group", "--ca-file", authority)
        self.assertIn("$version", self.by_certificate("x-grouped", shown)["reported"])
        _, stranger = self.certificate("x-stranger")
        with self.assertRaises(exceptions.CredentialError):
            self.by_certificate("x-stranger", stranger)


if __name__ == "__main__":
    unittest.main()
