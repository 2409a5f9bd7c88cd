"""Messages from the cloud: sent by REST and by the command line, taken by Azure's Python device SDK,
unmodified, with a hub of ours between them.
"""

import base64
import hashlib
import hmac
import os
import queue
import time
import unittest
import urllib.parse
from pathlib import Path

import requests
from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubRegistryManager

from hub import PROGRAM, SOON, Hub, wait_for


def token(connection):
    """A token of a shared access policy for the whole hub."""
    fields = dict(field.split("=", 1) for field in connection.split(";"))
    resource = urllib.parse.quote(fields["HostName"], safe="")
    expires = int(time.time()) + 3600
    key = base64.b64decode(fields["SharedAccessKey"])
    signature = hmac.new(key, f"{resource}\n{expires}".encode(), hashlib.sha256).digest()
    signature = urllib.parse.quote(base64.b64encode(signature), safe="")
    policy = fields["SharedAccessKeyName"]
    return f"SharedAccessSignature sr={resource}&sig={signature}&se={expires}&skn={policy}"


class MessageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)
        os.environ["REQUESTS_CA_BUNDLE"] = cls.hub.variables["TWINWARD_CA_FILE"]
        cls.service = IoTHubRegistryManager.from_connection_string(
            cls.hub.variables["TWINWARD_SERVICE_CONNECTION_STRING"]
        )

    def rest(self, method, path, body=None, headers=None):
        connection = self.hub.variables["TWINWARD_SERVICE_CONNECTION_STRING"]
        return requests.request(
            method,
            f"https://{self.hub.address}{path}?api-version=2021-04-12",
            headers={"Authorization": token(connection), **(headers or {})},
            data=body,
            timeout=SOON,
        )

    def send(self, device, body, **headers):
        names = {"iothub-to": f"/devices/{device}/messages/deviceBound"}
        names.update({name.replace("_", "-"): value for name, value in headers.items()})
        return self.rest("POST", "/messages/deviceBound", body, names)

    def client(self, connection, **options):
        client = IoTHubDeviceClient.create_from_connection_string(
            connection, server_verification_cert=self.hub.ca(), **options
        )
        self.addCleanup(client.shutdown)
        return client

    def listening(self, client):
        """A queue of the messages that the device gets."""
        told = queue.Queue()
        client.connect()
        client.on_message_received = told.put
        return told

    def waiting(self, device):
        return self.service.get_device(device).cloud_to_device_message_count

    def wait_until_none_waits(self, device):
        wait_for("the queue to be empty", lambda: self.waiting(device) == 0)

    def test_a_message_with_everything(self):
        client = self.client(self.hub.create("whole"))
        told = self.listening(client)
        sent = self.send(
            "whole",
            b"\x00\xff{}",
            iothub_messageid="m-1",
            iothub_correlationid="c-1",
            iothub_contenttype="application/json",
            iothub_contentencoding="utf-8",
            iothub_ack="none",
            **{"iothub-app-colour": "red & blue/ö".encode()},
        )
        self.assertEqual((sent.status_code, sent.text), (204, ""))
        message = told.get(timeout=SOON)
        self.assertEqual(message.data, b"\x00\xff{}")
        self.assertEqual(message.message_id, "m-1")
        self.assertEqual(message.correlation_id, "c-1")
        self.assertEqual(message.content_type, "application/json")
        self.assertEqual(message.content_encoding, "utf-8")
        self.assertEqual(message.custom_properties, {"colour": "red & blue/ö"})
        self.assertIsNotNone(message.expiry_time_utc)
        self.wait_until_none_waits("whole")

    def test_messages_wait_for_a_device_also_over_a_restart_of_the_hub(self):
        client = self.client(self.hub.create("away"))
        told = self.listening(client)
        client.disconnect()
        for number in range(3):
            sent = self.send("away", str(number))
            self.assertEqual(sent.status_code, 204, sent.text)
        self.assertEqual(self.waiting("away"), 3)
        self.assertEqual(self.service.get_twin("away").cloud_to_device_message_count, 3)
        rows = self.hub.cli("device", "messages", "away")
        self.assertEqual([row["payloadBytes"] for row in rows], [1, 1, 1])
        self.hub.stop()
        self.hub.start()
        self.assertEqual(self.waiting("away"), 3)
        # It does not subscribe again: what it has subscribed to is kept.
        client.connect()
        for number in range(3):
            self.assertEqual(told.get(timeout=SOON).data, str(number).encode())
        self.wait_until_none_waits("away")
        self.assertTrue(told.empty())

    def test_over_websocket(self):
        client = self.client(self.hub.create("socketed"), websockets=True)
        told = self.listening(client)
        large = "x" * 60_000
        self.assertEqual(self.send("socketed", large).status_code, 204)
        self.assertEqual(told.get(timeout=SOON).data, large.encode())
        self.wait_until_none_waits("socketed")

    def test_the_command_line(self):
        client = self.client(self.hub.create("typed"))
        options = ["--property", "kind=note", "--message-id", "m-7", "--expires-after", "10m"]
        sent = self.hub.cli("device", "send", "typed", "hello", *options)
        self.assertEqual(sent["messageId"], "m-7")
        rows = self.hub.cli("device", "messages", "typed")
        self.assertEqual([row["messageId"] for row in rows], ["m-7"])
        told = self.listening(client)
        message = told.get(timeout=SOON)
        self.assertEqual(message.data, b"hello")
        self.assertEqual(message.custom_properties, {"kind": "note"})
        self.wait_until_none_waits("typed")
        client.disconnect()
        self.hub.cli("device", "send", "typed", "one more")
        self.assertEqual(self.hub.cli("device", "messages", "typed", "--purge")["purgedCount"], 1)
        self.assertEqual(self.hub.cli("device", "messages", "typed"), [])

    def test_a_queue_has_room_for_fifty_and_is_emptied(self):
        self.hub.create("full")
        for number in range(50):
            self.assertEqual(self.send("full", str(number)).status_code, 204)
        refused = self.send("full", "50")
        self.assertEqual(refused.status_code, 403, refused.text)
        code = refused.headers["iothub-errorcode"]
        self.assertEqual(code, "DeviceMaximumQueueDepthExceeded")
        listed = {it.device_id: it for it in self.service.get_devices()}
        self.assertEqual(listed["full"].cloud_to_device_message_count, 50)
        purged = self.rest("DELETE", "/devices/full/commands")
        self.assertEqual(purged.status_code, 200, purged.text)
        wanted = {"totalMessagesPurged": 50, "deviceId": "full", "moduleId": None}
        self.assertEqual(purged.json(), wanted)
        self.assertEqual(self.waiting("full"), 0)

    def test_another_device_of_the_same_name_gets_nothing_old(self):
        self.hub.create("again")
        self.assertEqual(self.send("again", "old").status_code, 204)
        self.service.delete_device("again")
        client = self.client(self.hub.create("again"))
        self.assertEqual(self.waiting("again"), 0)
        told = self.listening(client)
        self.assertEqual(self.send("again", "new").status_code, 204)
        self.assertEqual(told.get(timeout=SOON).data, b"new")
        self.wait_until_none_waits("again")
        self.assertTrue(told.empty())

    def test_what_cannot_be_sent(self):
        self.hub.create("plain")
        past = "2020-01-01T00:00:00Z"
        for status, wanted, answered in (
            (404, "DeviceNotFound", self.send("nobody", "x")),
            (413, "MessageTooLarge", self.send("plain", "x" * (64 * 1024))),
            (400, "ArgumentInvalid", self.send("plain", "x", iothub_ack="full")),
            (400, "ArgumentInvalid", self.send("plain", "x", iothub_messageid="a b")),
            (400, "ArgumentInvalid", self.send("plain", "x", iothub_expiry=past)),
            (400, "ArgumentInvalid", self.send("plain", "x", iothub_to="/devices/plain")),
            (400, "ArgumentInvalid", self.send("plain", "x", **{"iothub-app-iothub-x": "1"})),
        ):
            self.assertEqual(answered.status_code, status, answered.text)
            self.assertEqual(answered.headers["iothub-errorcode"], wanted, answered.text)
        self.assertEqual(self.waiting("plain"), 0)


if __name__ == "__main__":
    assert Path(PROGRAM).exists(), f"{PROGRAM} is not there; name it in TWINWARD_BIN"
    unittest.main(verbosity=2)
