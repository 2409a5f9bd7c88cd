"""What back ends ask of devices: Azure's Python service SDK on one side, its device SDK on the other,
both unmodified, and a hub of ours between them.
"""

import base64
import json
import os
import threading
import time
import unittest
from pathlib import Path

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, MethodResponse
from azure.iot.hub import IoTHubJobManager, IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, JobRequest, QuerySpecification
from msrest.exceptions import HttpOperationError

from hub import PROGRAM, SOON, Hub, wait_for


class MethodTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)
        os.environ["REQUESTS_CA_BUNDLE"] = cls.hub.variables["TWINWARD_CA_FILE"]
        cls.service = IoTHubRegistryManager.from_connection_string(
            cls.hub.variables["TWINWARD_SERVICE_CONNECTION_STRING"]
        )

    def connect(self, client):
        self.addCleanup(client.shutdown)
        client.connect()
        return client

    def device(self, name, answer):
        """A device whose methods are answered by `answer`."""
        client = IoTHubDeviceClient.create_from_connection_string(
            self.hub.create(name), server_verification_cert=self.hub.ca()
        )
        return self.answering(self.connect(client), answer)

    def answering(self, client, answer):
        def handle(request):
            status, payload = answer(request)
            response = MethodResponse.create_from_method_request(request, status, payload)
            client.send_method_response(response)

        client.on_method_request_received = handle
        return client

    def invoke(self, device, name, payload=None, **options):
        call = CloudToDeviceMethod(method_name=name, payload=payload, **options)
        return self.service.invoke_device_method(device, call)

    def refused(self, status, number, call):
        with self.assertRaises(HttpOperationError) as caught:
            call()
        response = caught.exception.response
        self.assertEqual(response.status_code, status, response.text)
        message = json.loads(response.json()["Message"])
        self.assertEqual(message["errorCode"], number)
        self.assertIn("trackingId", message)
        self.assertIn("timestampUtc", message)
        return response.headers["iothub-errorcode"]

    def test_a_method_of_a_device_and_its_answer(self):
        seen = []

        def answer(request):
            seen.append((request.name, request.payload))
            return 418, {"echo": request.payload}

        self.device("called", answer)
        for payload in ({"a": [1, None, "ö"]}, "text", 7, 1.5, True, [], {}):
            answered = self.invoke("called", "get*log", payload)
            self.assertEqual(answered.status, 418)
            self.assertEqual(answered.payload, {"echo": payload})
            self.assertEqual(seen[-1], ("get*log", payload))
        # The SDK turns a missing payload into an empty text, and so it arrives.
        self.invoke("called", "none")
        self.assertEqual(seen[-1], ("none", ""))
        large = "x" * (100 * 1024)
        self.assertEqual(self.invoke("called", "large", large).payload, {"echo": large})

    def test_a_method_of_a_module(self):
        self.hub.create("mother")
        created = self.hub.cli("module", "create", "mother", "lens")
        client = IoTHubModuleClient.create_from_connection_string(
            created["connectionString"], server_verification_cert=self.hub.ca()
        )
        self.answering(self.connect(client), lambda request: (200, request.name))
        call = CloudToDeviceMethod(method_name="focus", payload={})
        answered = self.service.invoke_device_module_method("mother", "lens", call)
        self.assertEqual((answered.status, answered.payload), (200, "focus"))
        answered = self.hub.cli("module", "invoke", "mother", "lens", "again")
        self.assertEqual(answered, {"status": 200, "payload": "again"})

    def test_whoever_is_away_is_waited_for_when_that_is_asked_for(self):
        connection = self.hub.create("away")
        code = self.refused(404, 404103, lambda: self.invoke("away", "m"))
        self.assertEqual(code, "DeviceNotOnline")
        answers = []

        def wait():
            answers.append(self.invoke("away", "m", {}, connect_timeout_in_seconds=60))

        waiting = threading.Thread(target=wait)
        waiting.start()
        client = IoTHubDeviceClient.create_from_connection_string(
            connection, server_verification_cert=self.hub.ca()
        )
        self.answering(self.connect(client), lambda request: (200, "here"))
        waiting.join(SOON)
        self.assertEqual(answers[0].payload, "here")
        # After a reconnect the SDK does not subscribe again.
        client.disconnect()
        client.connect()
        self.assertEqual(self.invoke("away", "m", {}).payload, "here")

    def test_a_device_that_does_not_answer(self):
        done = threading.Event()

        def answer(_request):
            done.wait(SOON)
            return 200, None

        self.device("silent", answer)
        # Before the client is shut down, which waits for its handler.
        self.addCleanup(done.set)
        begun = time.monotonic()
        silent = lambda: self.invoke("silent", "m", {}, response_timeout_in_seconds=5)
        self.assertEqual(self.refused(504, 504101, silent), "GatewayTimeout")
        self.assertGreaterEqual(time.monotonic() - begun, 5)

    def test_what_cannot_be_asked(self):
        self.hub.create("plain")
        for status, wanted, call in (
            (400, "ArgumentInvalid", lambda: self.invoke("plain", "a b", {})),
            (
                400,
                "ArgumentInvalid",
                lambda: self.invoke("plain", "m", {}, response_timeout_in_seconds=301),
            ),
            (413, "MessageTooLarge", lambda: self.invoke("plain", "m", "x" * (128 * 1024))),
            (404, "DeviceNotFound", lambda: self.invoke("nobody", "m", {})),
        ):
            with self.assertRaises(HttpOperationError) as caught:
                call()
            response = caught.exception.response
            self.assertEqual(response.status_code, status, response.text)
            self.assertEqual(response.headers["iothub-errorcode"], wanted)

    def test_a_job_that_calls_a_method_of_many_devices(self):
        calls = []

        def answer(request):
            calls.append(request.payload)
            return 207, {"done": request.name}

        for name in ("worker-1", "worker-2"):
            self.device(name, answer)
            self.invoke(name, "awake", {}, connect_timeout_in_seconds=30)
        calls.clear()
        self.hub.create("worker-away")
        jobs = IoTHubJobManager.from_connection_string(
            self.hub.variables["TWINWARD_SERVICE_CONNECTION_STRING"]
        )
        asked = JobRequest(
            job_id="reboot-all",
            type="scheduleDeviceMethod",
            cloud_to_device_method=CloudToDeviceMethod(
                method_name="reboot", payload={"now": True}, response_timeout_in_seconds=20
            ),
            query_condition="deviceId IN ['worker-1', 'worker-2', 'worker-away']",
            max_execution_time_in_seconds=120,
        )
        begun = jobs.create_scheduled_job("reboot-all", asked)
        self.assertEqual((begun.job_id, begun.type), ("reboot-all", "scheduleDeviceMethod"))

        def ended():
            job = jobs.get_scheduled_job("reboot-all")
            return job if job.status == "completed" else None

        job = wait_for("the job", ended)
        counts = job.device_job_statistics
        self.assertEqual((counts.device_count, counts.succeeded_count), (3, 2))
        self.assertEqual(counts.failed_count, 1)
        self.assertEqual(calls, [{"now": True}] * 2)
        query = "SELECT * FROM devices.jobs WHERE devices.jobs.jobId = 'reboot-all'"
        rows = self.service.query_iot_hub(QuerySpecification(query=query)).items
        rows = {row.as_dict()["device_id"]: row for row in rows}
        self.assertEqual(set(rows), {"worker-1", "worker-2", "worker-away"})

    def test_the_audit_log_names_the_access_policy(self):
        self.device("audited", lambda request: (200, None))
        self.invoke("audited", "m", {})
        key = base64.b64encode(b"k" * 32).decode()
        self.service.create_device_with_sas("audited-too", key, key, "enabled")

        def actors():
            entries = map(json.loads, self.hub.cli_text("audit", "list").splitlines())
            found = {(e["action"], e["resource"]): e["actor"] for e in entries}
            wanted = [("method.invoke", "devices/audited"), ("device.create", "devices/audited-too")]
            return [found[it] for it in wanted] if all(it in found for it in wanted) else None

        owner = "operator:sas/iothubowner"
        self.assertEqual(wait_for("the entries", actors), [owner, owner])

    def test_the_command_line(self):
        self.device("typed", lambda request: (201, {"got": request.payload}))
        answered = self.hub.cli("device", "invoke", "typed", "set", "--payload", '{"level": 3}')
        self.assertEqual(answered, {"status": 201, "payload": {"got": {"level": 3}}})
        answered = self.hub.cli("device", "invoke", "typed", "set")
        self.assertEqual(answered["payload"], {"got": None})
        log = lambda: [
            entry for entry in map(json.loads, self.hub.cli_text("audit", "list").splitlines())
            if entry["action"] == "method.invoke" and entry["resource"] == "devices/typed"
        ]
        self.assertEqual(len(wait_for("the entries", log)), 2)


if __name__ == "__main__":
    assert Path(PROGRAM).exists(), f"{PROGRAM} is not there; name it in TWINWARD_BIN"
    unittest.main(verbosity=2)
