"""How devices answer for their configuration: IoT Plug and Play and the micro agent, with Azure's SDK.

Devices as the convention has them: a writable property is answered by `value`, `ac`, `av` and `ad`.
"""

import json
import unittest

from azure.iot.device import IoTHubDeviceClient

from hub import Hub, wait_for


class AnswersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)

    def device(self, name, answer):
        """A device that answers each patch of its desired section by `answer(patch, version)`."""
        connection = self.hub.create(name)
        client = IoTHubDeviceClient.create_from_connection_string(
            connection, server_verification_cert=self.hub.ca()
        )
        self.addCleanup(client.shutdown)

        def follow(patch):
            version = patch.pop("$version")
            report = answer(patch, version)
            if report:
                client.patch_twin_reported_properties(report)

        client.on_twin_desired_properties_patch_received = follow
        client.connect()
        # The first patch may come before the subscription; what a twin has is read at the start.
        wait_for("the device to follow its twin", lambda: client.get_twin())
        return client

    def configuration(self, name):
        return self.hub.cli("twin", "get", name)["posture"]["configuration"]

    def state(self, name, state):
        def look():
            found = self.configuration(name)
            return found if found["state"] == state else None

        return wait_for(f"{name} to be {state}", look)

    def test_properties_and_components_are_answered_one_by_one(self):
        answers = {"speed": 200, "lamp": 200}

        def answer(patch, version):
            report = {}
            if "speed" in patch:
                code = answers["speed"]
                report["speed"] = {"value": patch["speed"], "ac": code, "av": version}
                if code >= 400:
                    report["speed"]["ad"] = "too fast"
            if "lamp" in patch:
                on = {"value": patch["lamp"]["on"], "ac": answers["lamp"], "av": version}
                report["lamp"] = {"__t": "c", "on": on}
            return report

        client = self.device("thermostat", answer)
        self.hub.desire("thermostat", {"speed": 5, "lamp": {"__t": "c", "on": True}})
        applied = self.state("thermostat", "applied")
        self.assertEqual(applied["appliedVersion"], applied["desiredVersion"])

        answers["speed"] = 400
        self.hub.desire("thermostat", {"speed": 9})
        rejected = self.state("thermostat", "rejected")
        self.assertEqual(rejected["reason"], "speed: 400 too fast")
        self.assertEqual(rejected["invalidFields"], ["speed"])
        self.assertEqual(rejected["appliedVersion"], applied["appliedVersion"])

        # What is being worked on is pending until it is done.
        answers["lamp"] = 202
        self.hub.desire("thermostat", {"speed": None, "lamp": {"on": False}})
        version = self.configuration("thermostat")["desiredVersion"]
        reported = lambda: client.get_twin()["reported"]["lamp"]["on"]["av"] == version
        wait_for("the lamp to be worked on", reported)
        self.assertEqual(self.configuration("thermostat")["state"], "pending")
        on = {"value": False, "ac": 200, "av": version}
        client.patch_twin_reported_properties({"lamp": {"__t": "c", "on": on}})
        self.state("thermostat", "applied")

    def test_the_micro_agent_answers_without_a_version(self):
        def answer(patch, version):
            bad = [key for key, value in patch.items() if value == "bad"]
            state = "failed" if bad else "success"
            return {"latest_state": state, "latest_invalid_fields": bad or None}

        self.device("micro", answer)
        self.hub.desire("micro", {"Process_Mode": 1})
        applied = self.state("micro", "applied")
        self.hub.desire("micro", {"Process_Mode": "bad"})
        rejected = self.state("micro", "rejected")
        self.assertEqual(rejected["invalidFields"], ["Process_Mode"])
        self.assertEqual(rejected["appliedVersion"], applied["appliedVersion"])

    def test_a_rollout_over_such_devices_is_judged_by_their_answers(self):
        def answer(patch, version):
            if "level" not in patch:
                return None
            good = patch["level"] != 11
            return {"level": {"value": patch["level"], "ac": 200 if good else 400, "av": version}}

        names = ["amp-1", "amp-2"]
        for name in names:
            self.device(name, answer)
            self.hub.cli("twin", "patch", name, "--tags", '{"kind": "amp"}')

        def spread(level):
            policy = {
                "kind": "Policy",
                "name": "loud",
                "scope": "devices",
                "target": "tags.kind = 'amp'",
                "settings": {"level": level},
                "rollout": {"waves": [{"count": 1}], "soak": "0s"},
            }
            file = self.hub.path / "policy.json"
            file.write_text(json.dumps(policy))
            self.hub.cli("policy", "apply", "-f", str(file))
            ended = ("completed", "rolled-back")

            def look():
                found = self.hub.cli("rollout", "get", "loud")
                return found if found["phase"] in ended else None

            return wait_for(f"the rollout of {level}", look)

        self.assertEqual(spread(5)["phase"], "completed")
        failed = spread(11)
        self.assertEqual(failed["phase"], "rolled-back", failed)
        self.assertIn("1 rejected it", failed["reason"])
        # The one that was asked gets back what it had, and nobody else was asked.
        for name in names:
            self.state(name, "applied")
            self.assertEqual(self.hub.cli("twin", "get", name)["properties"]["desired"]["level"], 5)


if __name__ == "__main__":
    unittest.main()
