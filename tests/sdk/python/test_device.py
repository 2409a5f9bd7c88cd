"""Azure's Python device SDK, unmodified, against a hub of ours.

Device code as everybody writes it: a connection string and a CA, nothing else.
"""

import base64
import hashlib
import hmac
import json
import queue
import ssl
import subprocess
import time
import unittest
import urllib.parse
from pathlib import Path

from azure.iot.device import (
    IoTHubDeviceClient,
    IoTHubModuleClient,
    Message,
    MethodResponse,
    X509,
    exceptions,
)

from hub import PROGRAM, SOON, Hub, wait_for


class DeviceTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)

    def client(self, connection, **options):
        client = IoTHubDeviceClient.create_from_connection_string(
            connection, server_verification_cert=self.hub.ca(), **options
        )
        self.addCleanup(client.shutdown)
        return client

    def following(self, client):
        """A queue of what the device is told of its desired section."""
        told = queue.Queue()
        client.on_twin_desired_properties_patch_received = told.put
        return told

    def test_telemetry_by_key(self):
        client = self.client(self.hub.create("telemetry"))
        client.connect()
        before = self.hub.metric("mqtt_messages_total")
        for number in range(3):
            message = Message(f'{{"number":{number}}}')
            message.custom_properties["colour"] = "red & blue"
            message.content_type = "application/json"
            # Returns when the hub has acknowledged it.
            client.send_message(message)
        self.assertEqual(self.hub.metric("mqtt_messages_total") - before, 3)

    def test_over_websocket(self):
        connection = self.hub.create("socketed")
        client = self.client(connection, websockets=True)
        client.connect()
        self.assertEqual(self.hub.metric("websockets", "GATEWAY"), 1)
        told = self.following(client)
        # Larger than what any buffer on the way holds.
        client.send_message("x" * 200_000)
        client.patch_twin_reported_properties({"large": "y" * 4000})
        version = client.get_twin()["desired"]["$version"]
        self.hub.desire("socketed", {"a": 1})
        self.assertEqual(told.get(timeout=SOON), {"a": 1, "$version": version + 1})
        # One session for an identity, whichever way it comes: the new one drops the old one.
        other = self.client(connection)
        other.connect()
        wait_for("the old one to be gone", lambda: not client.connected)
        # The SDK's own `disconnect` may fail where the connection is gone already; the end of the test closes it.
        other.send_message("hello")

    def policy_token(self, policy, resource):
        """A token of a shared access policy, as a token service of somebody's would make it."""
        policies = self.hub.path / "data" / "gateway" / "access-policies.toml"
        host = self.hub.address
        listed = self.hub.cli("access-policy", "list", "--host", host, "--file", str(policies))
        connection = next(it for it in listed["policies"] if it["name"] == policy)["connectionString"]
        key = base64.b64decode(connection.split("SharedAccessKey=")[1])
        resource, ends = urllib.parse.quote(resource, safe=""), int(time.time()) + 3600
        signature = hmac.new(key, f"{resource}\n{ends}".encode(), hashlib.sha256).digest()
        signature = urllib.parse.quote(base64.b64encode(signature), safe="")
        return f"SharedAccessSignature sr={resource}&sig={signature}&se={ends}&skn={policy}"

    def test_a_token_of_an_access_policy(self):
        # One has keys of its own, the other a certificate alone.
        self.hub.create("vouched")
        self.hub.create("vouched-for-all-the-same", "--thumbprint", "AB" * 32)
        for device in ("vouched", "vouched-for-all-the-same"):
            for options in ({}, {"websockets": True}):
                token = self.policy_token("device", f"{self.hub.address}/devices/{device}")
                client = IoTHubDeviceClient.create_from_sastoken(
                    token, server_verification_cert=self.hub.ca(), **options
                )
                self.addCleanup(client.shutdown)
                client.connect()
                client.send_message("hello")

                def names_it(device=device):
                    agent = self.hub.cli("twin", "get", device)["posture"]["agent"]
                    return agent.get("sessionAccessPolicy") == "device"

                wait_for("the policy to be told", names_it)
                client.disconnect()
        # One that opens other doors.
        token = self.policy_token("service", f"{self.hub.address}/devices/vouched")
        client = IoTHubDeviceClient.create_from_sastoken(token, server_verification_cert=self.hub.ca())
        self.addCleanup(client.shutdown)
        with self.assertRaises(exceptions.CredentialError):
            client.connect()

    def test_a_wrong_key_over_websocket_is_a_credential_error(self):
        wrong = self.hub.create("socket-keyed").split("SharedAccessKey=")[0]
        client = self.client(wrong + "SharedAccessKey=" + "QUFB" * 10 + "QUE=", websockets=True)
        with self.assertRaises(exceptions.CredentialError):
            client.connect()

    def test_a_certificate_over_websocket(self):
        self.certified("socket-certified", websockets=True)

    def test_a_certificate_signed_by_an_authority(self):
        self.hub.create("signed", "--auth", "ca")

        def client(name, **options):
            cert, key = self.hub.certificate(name)
            made = IoTHubDeviceClient.create_from_x509_certificate(
                x509=X509(cert, key),
                hostname=self.hub.address,
                device_id="signed",
                server_verification_cert=self.hub.ca(),
                **options,
            )
            self.addCleanup(made.shutdown)
            return made

        for options in ({}, {"websockets": True}):
            device = client("signed", **options)
            device.connect()
            device.send_message("hello")
            device.disconnect()
            with self.assertRaises(exceptions.CredentialError):
                client("another", **options).connect()

    def test_a_certificate_signed_by_the_device_itself(self):
        self.certified("certified")

    def certified(self, name, **options):
        directory = self.hub.path / name
        command = [PROGRAM, "certs", "init", "--dir", directory, "--client", "device"]
        subprocess.run(command, check=True, capture_output=True)
        pem = (directory / "device.pem").read_text()
        thumbprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()
        self.hub.create(name, "--thumbprint", thumbprint)
        client = IoTHubDeviceClient.create_from_x509_certificate(
            x509=X509(str(directory / "device.pem"), str(directory / "device.key")),
            hostname=self.hub.address,
            device_id=name,
            server_verification_cert=self.hub.ca(),
            **options,
        )
        self.addCleanup(client.shutdown)
        client.connect()
        client.send_message("hello")
        self.assertIn("$version", client.get_twin()["desired"])

    def test_a_wrong_key_is_a_credential_error(self):
        wrong = self.hub.create("keyed").split("SharedAccessKey=")[0]
        client = self.client(wrong + "SharedAccessKey=" + "QUFB" * 10 + "QUE=")
        with self.assertRaises(exceptions.CredentialError):
            client.connect()

    def test_the_twin_there_and_back(self):
        client = self.client(self.hub.create("twin"))
        client.connect()
        self.hub.desire("twin", {"interval": 5})
        twin = client.get_twin()
        self.assertEqual(twin["desired"]["interval"], 5)
        self.assertEqual(twin["reported"], {"$version": 1})
        client.patch_twin_reported_properties({"interval": 5, "nested": {"a": [1, "x"]}})
        client.patch_twin_reported_properties({"interval": None})
        twin = client.get_twin()
        self.assertEqual(twin["reported"], {"nested": {"a": [1, "x"]}, "$version": 3})
        # The SDK wraps the status of a refusal.
        with self.assertRaises(exceptions.ClientError):
            client.patch_twin_reported_properties({"not.allowed": 1})

    def test_changes_of_the_desired_section(self):
        client = self.client(self.hub.create("desired"))
        client.connect()
        told = self.following(client)
        version = client.get_twin()["desired"]["$version"]
        self.hub.desire("desired", {"a": 1, "b": {"c": 2}})
        wanted = {"a": 1, "b": {"c": 2}, "$version": version + 1}
        self.assertEqual(told.get(timeout=SOON), wanted)
        self.hub.desire("desired", {"a": None})
        self.assertEqual(told.get(timeout=SOON), {"a": None, "$version": version + 2})
        # After a reconnect the SDK does not subscribe again, and reads the twin by itself.
        client.disconnect()
        client.connect()
        self.hub.desire("desired", {"a": 7})
        self.assertEqual(told.get(timeout=SOON), {"a": 7, "$version": version + 3})

    def test_the_model_of_a_plug_and_play_device(self):
        model = "dtmi:com:example:Thermostat;1"
        client = self.client(self.hub.create("modelled"), product_info=model)
        client.connect()
        shown = lambda: self.hub.cli("twin", "get", "modelled").get("modelId")  # noqa: E731
        wait_for("the model", lambda: shown() == model)
        query = f"SELECT deviceId FROM devices WHERE modelId = '{model}'"
        found = self.hub.cli_text("query", query).splitlines()
        self.assertEqual([json.loads(row)["deviceId"] for row in found], ["modelled"])
        # A program that announces none takes none away.
        client.disconnect()
        other = self.client(self.hub.connection("modelled"))
        other.connect()
        other.get_twin()
        self.assertEqual(shown(), model)

    def test_the_twin_of_a_module(self):
        self.hub.create("housed")
        connection = self.hub.cli("module", "create", "housed", "lens")["connectionString"]
        client = IoTHubModuleClient.create_from_connection_string(
            connection, server_verification_cert=self.hub.ca()
        )
        self.addCleanup(client.shutdown)
        told = self.following(client)

        def answer(request):
            response = MethodResponse.create_from_method_request(request, 200, {"zoom": 2})
            client.send_method_response(response)

        client.on_method_request_received = answer
        client.connect()
        version = client.get_twin()["desired"]["$version"]
        self.hub.desire("housed/lens", {"zoom": 2})
        self.assertEqual(told.get(timeout=SOON), {"zoom": 2, "$version": version + 1})
        client.patch_twin_reported_properties({"zoom": 2})
        reported = self.hub.cli("twin", "get", "housed/lens")["properties"]["reported"]
        self.assertEqual(reported["zoom"], 2)
        # The device's own twin is another.
        reported = self.hub.cli("twin", "get", "housed")["properties"]["reported"]
        self.assertNotIn("zoom", reported)
        before = self.hub.metric("mqtt_messages_total")
        client.send_message("hello")
        self.assertEqual(self.hub.metric("mqtt_messages_total") - before, 1)
        called = self.hub.cli("module", "invoke", "housed", "lens", "zoom")
        self.assertEqual(called, {"status": 200, "payload": {"zoom": 2}})

    def test_a_token_is_renewed_under_a_connected_device(self):
        # The SDK renews a token two minutes before its end: this one five seconds after it was made.
        client = self.client(self.hub.create("renewing"), sastoken_ttl=125)
        told = self.following(client)
        client.connect()
        version = client.get_twin()["desired"]["$version"]
        ends = lambda: self.hub.metric("mqtt_ends_total")  # noqa: E731
        before = ends()
        # It says goodbye, and comes back with the next token.
        wait_for("the renewal", lambda: ends() > before)
        wait_for("the device", lambda: client.connected)
        self.hub.desire("renewing", {"a": 1})
        while "a" not in (change := told.get(timeout=SOON)):
            pass
        self.assertEqual(change["$version"], version + 1)
        client.send_message("still here")


class RestartTest(unittest.TestCase):
    def test_a_restart_of_the_hub_under_a_connected_device(self):
        hub = Hub()
        self.addCleanup(hub.close)
        client = IoTHubDeviceClient.create_from_connection_string(
            hub.create("steadfast"),
            server_verification_cert=hub.ca(),
            connection_retry_interval=1,
        )
        self.addCleanup(client.shutdown)
        told = queue.Queue()
        client.on_twin_desired_properties_patch_received = told.put
        client.connect()
        client.get_twin()
        hub.stop()
        hub.start()
        wait_for("the device", lambda: client.connected)
        hub.desire("steadfast", {"after": "the restart"})
        while "after" not in (change := told.get(timeout=SOON)):
            pass
        self.assertEqual(change["after"], "the restart")
        client.send_message("still here")


if __name__ == "__main__":
    assert Path(PROGRAM).exists(), f"{PROGRAM} is not there; name it in TWINWARD_BIN"
    unittest.main(verbosity=2)
