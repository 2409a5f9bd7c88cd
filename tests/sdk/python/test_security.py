"""Azure's Python device SDK, unmodified, sends security messages to a hub of ours.

The bodies are those that the security agents of IoT Hub send; the SDK itself marks them.
"""

import json
import unittest
import uuid
from pathlib import Path

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message

import micro_agent
from hub import PROGRAM, SOON, Hub, wait_for

MODULE = "DefenderIotMicroAgent"


def event(name, *payload, category="Triggered"):
    return {
        "Id": str(uuid.uuid4()),
        "TimestampLocal": "2024-05-01T12:00:00Z",
        "TimestampUTC": "2024-05-01T10:00:00Z",
        "Category": category,
        "Name": name,
        "EventType": "Security",
        "IsEmpty": not payload,
        "PayloadSchemaVersion": "1.0",
        "Payload": list(payload),
    }


def message(*events):
    body = {
        "AgentVersion": "0.0.6",
        "AgentId": str(uuid.uuid4()),
        "MessageSchemaVersion": "1.0",
        "Events": list(events),
    }
    wrapped = Message(json.dumps(body), message_id=str(uuid.uuid4()))
    wrapped.set_as_security_message()
    return wrapped


class SecurityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.hub = Hub()
        cls.addClassCleanup(cls.hub.close)

    def connected(self, kind, connection):
        client = kind.create_from_connection_string(
            connection, server_verification_cert=self.hub.ca()
        )
        self.addCleanup(client.shutdown)
        client.connect()
        return client

    def module(self, device):
        """The client of the security module of a new device."""
        self.hub.create(device)
        created = self.hub.cli("module", "create", device, MODULE)
        return self.connected(IoTHubModuleClient, created["connectionString"])

    def posture(self, identity, holds):
        """The posture, as soon as it is as it should be."""

        def look():
            posture = self.hub.cli("twin", "get", identity)["posture"]
            return posture if holds(posture) else None

        return wait_for(f"the posture of {identity}", look)

    def test_each_documented_kind_moves_the_posture(self):
        client = self.module("all-kinds")
        process = {
            "Executable": "/usr/bin/curl", "ProcessId": 7, "ParentProcessId": 1, "UserId": "0",
            "CommandLine": "curl example.com", "ExtraDetails": {"HitCount": 3},
        }
        connection = {
            "RemoteAddress": "192.0.2.7", "RemotePort": "443", "Direction": "Out", "Protocol": "tcp",
            "ProcessId": 7, "Executable": "/usr/bin/curl",
        }
        login = {"ProcessId": 9, "Operation": "PAM:authentication", "Executable": "/usr/sbin/sshd",
                 "UserName": "root", "RemoteAddress": "198.51.100.4"}
        client.send_message(
            message(
                event("ListeningPorts", {"Protocol": "tcp", "LocalAddress": "0.0.0.0", "LocalPort": "22",
                                         "ExtraDetails": {"Pid": "812"}}, category="Periodic"),
                event("LocalUsers", {"UserName": "root", "UserId": "0", "GroupNames": "root",
                                     "GroupIds": "0"}, category="Periodic"),
                event("SystemInformation", {"OSName": "Linux", "HostName": "edge",
                                            "TotalPhysicalMemoryInKB": 2048}, category="Periodic"),
                event("ProcessCreate", process, category="Aggregated"),
                event("ProcessTerminate", {"Executable": "/bin/ls", "ProcessId": 8, "ExitStatus": 0}),
                event("ConnectionCreate", connection),
                event("Login", {**login, "Result": "Fail"}, {**login, "Result": "Success"}),
                event("Heartbeat", category="Periodic"),
            )
        )
        posture = self.posture(f"all-kinds/{MODULE}", lambda it: it["eventCount"] == 9)
        [port] = posture["listeningPorts"]
        self.assertEqual((port["port"], port["pid"]), (22, 812))
        self.assertEqual([user["name"] for user in posture["users"]], ["root"])
        self.assertEqual(posture["system"]["hostName"], "edge")
        self.assertEqual(posture["processes"]["started"], 3)
        self.assertEqual(posture["processes"]["exited"], 1)
        self.assertEqual(posture["connections"]["outbound"], 1)
        self.assertEqual((posture["logins"]["failed"], posture["logins"]["succeeded"]), (1, 1))
        self.assertTrue(posture["agent"]["connected"])
        delivery = posture["delivery"]["messages"]
        self.assertEqual((delivery["received"], delivery["rejected"]), (9, 0))

    def test_a_micro_agent_is_understood(self):
        client = self.module("micro")
        wrapped = Message(micro_agent.sample())
        wrapped.custom_properties["mti"] = "2.3-1-0-0"
        wrapped.set_as_security_message()
        client.send_message(wrapped)
        posture = self.posture(f"micro/{MODULE}", lambda it: it["eventCount"] == 7)
        self.assertEqual([port["port"] for port in posture["listeningPorts"]], [22, 8883, 53])
        self.assertEqual(posture["system"]["osName"], "Azure RTOS 6.1")
        self.assertEqual((posture["processes"]["started"], posture["processes"]["exited"]), (3, 1))
        self.assertEqual(posture["connections"]["unknown"], 2)
        self.assertIn("curl", str(posture["connections"]["recent"]))
        delivery = posture["delivery"]["messages"]
        self.assertEqual((delivery["received"], delivery["rejected"]), (7, 2))

    def test_the_same_message_again_has_no_effect(self):
        client = self.module("again")
        login = {"Operation": "x", "Result": "Fail", "UserName": "root"}
        sent = message(event("Login", login), event("FirewallConfiguration", {"Enabled": True}))
        client.send_message(sent)
        client.send_message(sent)
        other = message(event("Login", login))
        client.send_message(other)
        posture = self.posture(f"again/{MODULE}", lambda it: it["eventCount"] >= 2)
        self.assertEqual((posture["eventCount"], posture["logins"]["failed"]), (2, 2))
        delivery = posture["delivery"]["messages"]
        counted = (delivery["received"], delivery["duplicates"], delivery["rejected"])
        self.assertEqual(counted, (2, 2, 1))

    def test_what_is_no_security_message_goes_elsewhere(self):
        client = self.connected(IoTHubDeviceClient, self.hub.create("plain"))
        stored = self.hub.metric("mqtt_messages_total")
        rejected = self.hub.metric("events_rejected_total")
        client.send_message(Message("{}"))
        self.assertEqual(self.hub.metric("mqtt_messages_total") - stored, 1)
        broken = Message("no JSON")
        broken.set_as_security_message()
        # It is acknowledged, as IoT Hub does.
        client.send_message(broken)
        self.assertEqual(self.hub.metric("events_rejected_total") - rejected, 1)
        self.assertEqual(self.hub.metric("mqtt_messages_total") - stored, 1)


if __name__ == "__main__":
    assert Path(PROGRAM).exists(), f"{PROGRAM} is not there; name it in TWINWARD_BIN"
    unittest.main(verbosity=2)
