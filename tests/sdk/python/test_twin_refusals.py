"""What devices are told over MQTT when twin-store refuses what they report, in IoT Hub's numbers.

With plain MQTT and the real store: the SDK makes requests of one form alone, and shows no numbers.
"""

import base64
import hashlib
import hmac
import json
import queue
import ssl
import time
import unittest
import urllib.parse

import paho.mqtt.client as mqtt

from hub import SOON, Hub

ANSWERS = "$iothub/twin/res/#"
REPORTED = "$iothub/twin/PATCH/properties/reported/?$rid="


class Device:
    """A device that asks, and waits for the answer."""

    def __init__(self, hub, name):
        fields = dict(field.split("=", 1) for field in hub.create(name).split(";"))
        self.answers, self.ready, self.asked = queue.Queue(), queue.Queue(), 0
        self.client = mqtt.Client(client_id=name, protocol=mqtt.MQTTv311)
        self.client.username_pw_set(
            f"{hub.address}/{name}/?api-version=2021-04-12",
            self.token(fields["HostName"], name, fields["SharedAccessKey"]),
        )
        self.client.tls_set_context(ssl.create_default_context(cafile=hub.variables["TWINWARD_CA_FILE"]))
        self.client.on_message = lambda _client, _data, message: self.answers.put(message)
        self.client.on_subscribe = lambda *_arguments: self.ready.put(True)
        self.client.connect(hub.address, 8883)
        self.client.loop_start()
        self.client.subscribe(ANSWERS, 1)
        self.ready.get(timeout=SOON)

    @staticmethod
    def token(host, name, key):
        resource = urllib.parse.quote(f"{host}/devices/{name}", safe="")
        expires = int(time.time()) + 3600
        text = f"{resource}\n{expires}".encode()
        signature = hmac.new(base64.b64decode(key), text, hashlib.sha256).digest()
        sig = urllib.parse.quote(base64.b64encode(signature), safe="")
        return f"SharedAccessSignature sr={resource}&sig={sig}&se={expires}"

    def report(self, body, more=""):
        """Status and, of a refusal, the number."""
        self.asked += 1
        self.client.publish(f"{REPORTED}{self.asked}{more}", body, qos=1)
        answer = self.answers.get(timeout=SOON)
        status, parameters = answer.topic.removeprefix("$iothub/twin/res/").split("/?", 1)
        assert parameters.startswith(f"$rid={self.asked}"), answer.topic
        told = json.loads(answer.payload) if answer.payload else {}
        return int(status), told.get("errorCode")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class RefusalsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)

    def device(self, name):
        device = Device(self.hub, name)
        self.addCleanup(device.close)
        return device

    def reported(self, name):
        found = self.hub.cli("twin", "get", name)["properties"]["reported"]
        return {key: value for key, value in found.items() if not key.startswith("$")}

    def test_what_is_refused_is_told_by_number_and_writes_nothing(self):
        device = self.device("plain")
        self.assertEqual(device.report('{"a": 1}'), (204, None))
        # Eleven strings of the longest that there may be are more than a section may count.
        large = json.dumps({f"k{number}": "x" * 4000 for number in range(11)})
        for body, more, wanted in [
            (large, "", (403, 403100)),
            ('{"a": 2}', "&$version=99", (412, 412001)),
            ("[]", "", (400, 400004)),
            ('{"a": ', "", (400, 400006)),
            ('{"b.c": 1}', "", (400, 400004)),
        ]:
            self.assertEqual(device.report(body, more), wanted, (body[:20], more))
        self.assertEqual(self.reported("plain"), {"a": 1})

    def test_asking_for_nothing_is_no_mistake(self):
        device = self.device("calm")
        self.assertEqual(device.report("{}")[0], 204)
        self.assertEqual(self.reported("calm"), {})


if __name__ == "__main__":
    unittest.main()
