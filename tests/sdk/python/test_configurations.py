"""Automatic configurations: Azure's Python service SDK makes them, its device SDK is configured by
them, both unmodified, and a hub of ours between them.
"""

import os
import queue
import unittest

from azure.iot.device import IoTHubDeviceClient
from azure.iot.hub import IoTHubConfigurationManager, IoTHubRegistryManager
from azure.iot.hub.models import (
    Configuration,
    ConfigurationContent,
    ConfigurationMetrics,
    QuerySpecification,
    Twin,
)

from hub import SOON, Hub, wait_for


class ConfigurationTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)
        os.environ["REQUESTS_CA_BUNDLE"] = cls.hub.variables["TWINWARD_CA_FILE"]
        connection = cls.hub.variables["TWINWARD_SERVICE_CONNECTION_STRING"]
        cls.registry = IoTHubRegistryManager.from_connection_string(connection)
        cls.manager = IoTHubConfigurationManager.from_connection_string(connection)

    def device(self, name):
        """A device that is connected, and a queue of what it is told of its desired section."""
        client = IoTHubDeviceClient.create_from_connection_string(
            self.hub.create(name), server_verification_cert=self.hub.ca()
        )
        self.addCleanup(client.shutdown)
        client.connect()
        told = queue.Queue()
        client.on_twin_desired_properties_patch_received = told.put
        return client, told

    def next(self, told):
        """What the device is told next, without the version."""
        return {key: value for key, value in told.get(timeout=SOON).items() if key[0] != "$"}

    def create(self, name, **options):
        return self.manager.create_configuration(Configuration(id=name, **options))

    def states(self, device):
        """Where configurations stand: the SDK's twins have no place for it, its rows have."""
        query = f"SELECT configurations FROM devices WHERE deviceId = '{device}'"
        rows = self.registry.query_iot_hub(QuerySpecification(query=query)).items
        states = rows[0].additional_properties.get("configurations", {})
        return {name: state["status"] for name, state in states.items()}

    def test_a_device_is_configured_while_it_is_targeted(self):
        client, told = self.device("pump")
        self.registry.update_twin("pump", Twin(tags={"site": "hall"}))
        content = ConfigurationContent(
            device_content={"properties.desired.rate": {"hz": 5}, "properties.desired.mode": "slow"}
        )
        options = {"content": content, "target_condition": "tags.site = 'hall'"}
        metric = "SELECT deviceId FROM devices WHERE configurations.[[base]].status = 'Applied'" \
            " AND properties.reported.mode = 'slow'"
        metrics = ConfigurationMetrics(queries={"slow": metric})
        self.create("base", priority=1, metrics=metrics, **options)
        self.assertEqual(self.next(told), {"rate": {"hz": 5}, "mode": "slow"})
        client.patch_twin_reported_properties({"mode": "slow"})

        def counted():
            read = self.manager.get_configuration("base")
            system = read.system_metrics.results
            return system == {"targetedCount": 1, "appliedCount": 1} and read.metrics.results == {
                "slow": 1
            }

        wait_for("what is counted", counted)
        twin = self.registry.get_twin("pump")
        metadata = twin.properties.desired["$metadata"]
        self.assertEqual(metadata["rate"]["hz"]["$lastUpdatedBy"], "base")

        # A higher one takes a leaf; its priority falls, and the other has it again.
        faster = ConfigurationContent(device_content={"properties.desired.mode": "fast"})
        options["content"] = faster
        made = self.create("faster", priority=2, **options)
        self.assertEqual(self.next(told), {"mode": "fast"})
        self.assertEqual(self.states("pump")["base"], "Applied")
        made.priority = 0
        self.manager.update_configuration(made, made.etag)
        self.assertEqual(self.next(told), {"mode": "slow"})
        wait_for("the loser", lambda: self.states("pump").get("faster") == "Targeted")
        targeted = "SELECT * FROM devices WHERE configurations.[[faster]].status = 'Targeted'"
        found = self.registry.query_iot_hub(QuerySpecification(query=targeted)).items
        self.assertEqual([one.device_id for one in found], ["pump"])

        # Out of the target, and into it again.
        self.registry.update_twin("pump", Twin(tags={"site": "yard"}))
        self.assertEqual(self.next(told), {"rate": None, "mode": None})
        wait_for("no states", lambda: not self.states("pump"))
        self.registry.update_twin("pump", Twin(tags={"site": "hall"}))
        self.assertEqual(self.next(told), {"rate": {"hz": 5}, "mode": "slow"})
        self.manager.delete_configuration("base")
        self.assertEqual(self.next(told), {"rate": None, "mode": "fast"})
        self.manager.delete_configuration("faster")
        self.assertEqual(self.next(told), {"mode": None})

    def test_what_somebody_set_by_hand_is_not_overwritten(self):
        _, told = self.device("kept")
        self.hub.desire("kept", {"mode": "mine"})
        self.assertEqual(self.next(told), {"mode": "mine"})
        content = {"properties.desired.mode": "theirs", "properties.desired.rate": 7}
        self.create(
            "polite",
            content=ConfigurationContent(device_content=content),
            target_condition="deviceId = 'kept'",
        )
        self.assertEqual(self.next(told), {"rate": 7})
        # What was set by hand is taken out by hand, and the configuration has its way.
        self.hub.desire("kept", {"mode": None})
        self.assertEqual(self.next(told), {"mode": None})
        self.assertEqual(self.next(told), {"mode": "theirs"})
        self.manager.delete_configuration("polite")
        self.assertEqual(self.next(told), {"mode": None, "rate": None})


if __name__ == "__main__":
    unittest.main(verbosity=2)
