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
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

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

    def https(self, method, path, key=None, body=None, shown=None):
        """Status, headers and body of a call that no SDK makes for us."""
        resource = urllib.parse.quote(f"{self.scope}/registrations/sn-https", safe="")
        until = int(time.time()) + 600
        headers = {"Content-Type": "application/json"}
        if key:
            message = f"{resource}\n{until}".encode()
            signed = hmac.digest(base64.b64decode(key), message, hashlib.sha256)
            sig = urllib.parse.quote(base64.b64encode(signed).decode(), safe="")
            headers["Authorization"] = (
                f"SharedAccessSignature sr={resource}&sig={sig}&se={until}&skn=registration"
            )
        url = f"https://{self.hub.address}:{self.hub.variables['TWINWARD_HTTPS_PORT']}/{path}"
        call = urllib.request.Request(url, method=method, headers=headers, data=body)
        trust = ssl.create_default_context(cafile=self.hub.variables["TWINWARD_CA_FILE"])
        if shown:
            trust.load_cert_chain(shown.certificate_file, shown.key_file)
        try:
            answer = urllib.request.urlopen(call, context=trust, timeout=30)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            return answer.status, answer.headers, json.loads(answer.read())

    def test_a_device_registers_over_https(self):
        made = self.hub.cli("provisioning", "create", "sn-https")
        root, version = f"{self.scope}/registrations/sn-https", "?api-version=2021-06-01"
        key = made["primaryKey"]
        status, _, body = self.https("POST", root + version, key, b"{}")
        self.assertEqual((status, body["errorCode"] // 1000), (404, 404))
        body = b'{"registrationId":"sn-https"}'
        status, headers, body = self.https("PUT", f"{root}/register{version}", key, body)
        self.assertEqual((status, body["status"]), (202, "assigning"))
        self.assertEqual(headers["Retry-After"], "1")
        operation = body["operationId"]
        self.assertTrue(headers["Location"].endswith(f"{root}/operations/{operation}"))
        poll = f"{root}/operations/{operation}{version}"
        status, _, body = self.https("GET", poll, key)
        self.assertEqual((status, body["status"]), (200, "assigned"))
        self.assertEqual(body["registrationState"]["assignedHub"], self.hub.address)
        status, _, state = self.https("POST", root + version, key, b"{}")
        self.assertEqual((status, state), (200, body["registrationState"]))
        self.assertEqual(state["deviceId"], "sn-https")
        # Wrong keys, none, another registration, another scope, another operation, no version.
        other = base64.b64encode(b"x" * 32).decode()
        refused = [
            ("PUT", f"{root}/register{version}", other, b"{}", 401),
            ("PUT", f"{root}/register{version}", None, b"{}", 401),
            ("PUT", f"{root[:-5]}other/register{version}", key, b"{}", 401),
            ("POST", f"0ne00000000/registrations/sn-https{version}", key, b"{}", 401),
            ("GET", f"{root}/operations/4.0.x{version}", key, None, 404),
            ("PUT", f"{root}/register", key, b"{}", 400),
            ("PUT", f"{root}/register{version}", key, b'{"registrationId":"x"}', 400),
        ]
        for method, path, shown, content, wanted in refused:
            status, headers, body = self.https(method, path, shown, content)
            self.assertEqual(status, wanted, (method, path, body))
            self.assertEqual(body["errorCode"] // 1000, wanted)
            self.assertEqual(headers["x-ms-error-code"], str(body["errorCode"]))
            self.assertIn("trackingId", body)

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

    def test_a_device_registers_over_https_by_its_certificate(self):
        directory, shown = self.certificate("x-https")
        authority = str(directory / "ca.pem")
        self.hub.cli("provisioning", "create", "x-https-plant", "--group", "--ca-file", authority)
        root, version = f"{self.scope}/registrations/x-https", "?api-version=2021-06-01"
        register = ("PUT", f"{root}/register{version}")
        status, _, body = self.https(*register, body=b"{}", shown=shown)
        self.assertEqual((status, body["status"]), (202, "assigning"))
        poll = f"{root}/operations/{body['operationId']}{version}"
        status, _, body = self.https("GET", poll, shown=shown)
        self.assertEqual((status, body["status"]), (200, "assigned"))
        self.assertEqual(body["registrationState"]["deviceId"], "x-https")
        # Another's certificate, and none.
        _, stranger = self.certificate("x-https-stranger")
        self.assertEqual(self.https(*register, body=b"{}", shown=stranger)[0], 401)
        self.assertEqual(self.https(*register, body=b"{}")[0], 401)

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
