"""Two instances of ingestion, each with devices of Azure's Python device SDK: calls and messages reach a
device wherever it is, and it finds what it subscribed to and what waits for it wherever it comes.
"""

import os
import queue
import re
import signal
import subprocess
import unittest
from pathlib import Path

from azure.iot.device import IoTHubDeviceClient, MethodResponse
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod

from hub import PROGRAM, SOON, Hub, free_address, wait_for


class Second:
    """Another instance of ingestion beside that of `up`, on an address of its own."""

    def __init__(self, hub):
        self.address = free_address()
        certs = hub.path / "second"
        command = [PROGRAM, "certs", "init", "--dir", certs, "--name", self.address]
        subprocess.run(command, check=True, capture_output=True)
        self.ca = (certs / "ca.pem").read_text()
        token, bus = re.fullmatch(r"nats://(.+)@(.+)", hub.variables["TWINWARD_NATS_URL"]).groups()
        settings = {
            "listen": "127.0.0.1:0",
            "admin_listen": "127.0.0.1:0",
            "instance": "ingestion-1",
            "public_host": hub.address,
            "mqtt_listen": f"{self.address}:8883",
            "mqtt_cert_file": certs / "server.pem",
            "mqtt_key_file": certs / "server.key",
            "nats_url": f"nats://{bus}",
            "nats_token": token,
            "twin_store_url": hub.variables["TWINWARD_TWIN_STORE_URL"],
            "twin_store_token": hub.variables["TWINWARD_ADMIN_TOKEN"],
        }
        command = [PROGRAM, "ingestion"]
        for name, value in settings.items():
            command += ["--set", f"{name}={value}"]
        self.log = hub.path / "second.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for("the second instance", self._is_up)

    def _is_up(self):
        log = self.log.read_text()
        if self.process.poll() is not None:
            raise AssertionError(f"ingestion ended: {log}")
        return "serves agents" in log

    def end(self, how):
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(timeout=SOON)


class ReplicasTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)
        os.environ["REQUESTS_CA_BUNDLE"] = cls.hub.variables["TWINWARD_CA_FILE"]
        cls.service = IoTHubRegistryManager.from_connection_string(
            cls.hub.variables["TWINWARD_SERVICE_CONNECTION_STRING"]
        )

    def setUp(self):
        self.second = Second(self.hub)
        self.addCleanup(self.second.end, signal.SIGTERM)

    def device(self, connection, at=None):
        """A device at the first instance, or at the second; and a queue of its messages."""
        if at:
            connection += f";GatewayHostName={at.address}"
        client = IoTHubDeviceClient.create_from_connection_string(
            connection,
            server_verification_cert=self.hub.ca() + self.second.ca,
            # Two clients of one device that both came back would drop each other for ever.
            connection_retry=False,
        )
        self.addCleanup(client.shutdown)

        def handle(request):
            answer = {"at": "second" if at else "first"}
            response = MethodResponse.create_from_method_request(request, 200, answer)
            client.send_method_response(response)

        told = queue.Queue()
        # Before it connects: what waits for it comes at once, because its subscription is kept.
        client.on_message_received = told.put
        client.on_method_request_received = handle
        client.connect()
        return client, told

    def invoke(self, device):
        call = CloudToDeviceMethod(method_name="where", payload={}, connect_timeout_in_seconds=30)
        return self.service.invoke_device_method(device, call).payload["at"]

    def send(self, device, text):
        self.hub.cli("device", "send", device, text)

    def wait_until_none_waits(self, device):
        empty = lambda: self.service.get_device(device).cloud_to_device_message_count == 0
        wait_for("the queue to be empty", empty)

    def test_devices_are_reached_where_they_are_and_may_move(self):
        connections = {name: self.hub.create(name) for name in ("here", "there")}
        _, here = self.device(connections["here"])
        client, there = self.device(connections["there"], self.second)
        self.assertEqual(self.invoke("here"), "first")
        self.assertEqual(self.invoke("there"), "second")
        for name, told in (("here", here), ("there", there)):
            self.send(name, f"for {name}")
            self.assertEqual(told.get(timeout=SOON).data, f"for {name}".encode())
            self.wait_until_none_waits(name)
        # It goes, is sent something, and comes to the other instance.
        client.disconnect()
        self.send("there", "one")
        self.send("there", "two")
        _, moved = self.device(connections["there"])
        for text in (b"one", b"two"):
            self.assertEqual(moved.get(timeout=SOON).data, text)
        self.wait_until_none_waits("there")
        self.assertEqual(self.invoke("there"), "first")
        self.assertTrue(there.empty() and here.empty() and moved.empty())
        # While it is connected here, it comes there: one session, the newer one.
        _, back = self.device(connections["there"], self.second)
        self.send("there", "three")
        self.assertEqual(back.get(timeout=SOON).data, b"three")
        self.assertEqual(self.invoke("there"), "second")
        self.assertTrue(moved.empty())
        self.assertEqual(self.second.end(signal.SIGTERM), 0)

    def test_an_instance_is_killed_and_its_device_comes_to_the_other(self):
        connection = self.hub.create("orphan")
        _, told = self.device(connection, self.second)
        self.assertEqual(self.invoke("orphan"), "second")
        self.send("orphan", "before")
        self.assertEqual(told.get(timeout=SOON).data, b"before")
        self.wait_until_none_waits("orphan")
        self.second.end(signal.SIGKILL)
        self.send("orphan", "while away")
        client, moved = self.device(connection)
        self.assertEqual(moved.get(timeout=SOON).data, b"while away")
        self.wait_until_none_waits("orphan")
        self.assertEqual(self.invoke("orphan"), "first")
        self.assertTrue(moved.empty())


if __name__ == "__main__":
    assert Path(PROGRAM).exists(), f"{PROGRAM} is not there; name it in TWINWARD_BIN"
    unittest.main(verbosity=2)
