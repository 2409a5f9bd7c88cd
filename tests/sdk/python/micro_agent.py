"""Messages as micro agents send them: FlatBuffers of schema 2.3, made with Google's own library.

`python3 micro_agent.py FILE` writes the sample that the tests of crates/iot-hub read.
"""

import ipaddress
import sys

import flatbuffers

TCP, UDP, ICMP = 0, 1, 2
NETWORK, SYSTEM, PORTS, HEARTBEAT, BASELINE, PROCESS, LOG = 1, 2, 3, 4, 5, 6, 7

TIME = 1_714_557_600  # 2024-05-01T10:00:00Z


class Message:
    """One message. Texts and tables are made before the table that names them, as the format wants it."""

    def __init__(self):
        self.builder = flatbuffers.Builder(1024)
        self.events = []

    def struct(self, alignment, content):
        """Lays a struct's bytes down, for `PrependStructSlot`."""
        builder = self.builder
        builder.Prep(alignment, len(content))
        builder.head -= len(content)
        builder.Bytes[builder.head : builder.head + len(content)] = content
        return builder.Offset()

    def vector(self, offsets):
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return self.builder.EndVector()

    def structs(self, alignment, contents):
        size = len(contents[0])
        self.builder.StartVector(size, len(contents), alignment)
        for content in reversed(contents):
            self.struct(alignment, content)
        return self.builder.EndVector()

    def event(self, kind, payload, time=TIME):
        builder = self.builder
        builder.StartObject(5)
        builder.PrependUOffsetTRelativeSlot(4, payload, 0)
        builder.PrependUint8Slot(3, kind, 0)
        builder.PrependUint32Slot(2, 3600, 0)
        builder.PrependUint32Slot(1, time, 0)
        builder.PrependStructSlot(0, self.struct(1, bytes(range(16))), 0)
        self.events.append(builder.EndObject())

    def flow(self, local, remote, protocol, process=0, executable=None):
        """A flow between two (address, port)."""
        builder = self.builder
        executable = builder.CreateString(executable) if executable else 0
        builder.StartObject(9)
        builder.PrependUint16Slot(0, local[1], 0)
        builder.PrependUint16Slot(1, remote[1], 0)
        builder.PrependUint32Slot(2, 1200, 0)
        builder.PrependUint32Slot(3, 300, 0)
        builder.PrependInt8Slot(4, protocol, 0)
        builder.PrependUint16Slot(5, process, 0)
        builder.PrependUOffsetTRelativeSlot(7, executable, 0)
        common = builder.EndObject()
        both = b"".join(ipaddress.ip_address(end[0]).packed for end in (local, remote))
        builder.StartObject(2)
        builder.PrependUOffsetTRelativeSlot(1, common, 0)
        builder.PrependStructSlot(0, self.struct(4, both), 0)
        return builder.EndObject()

    def network(self, over_v4, over_v6):
        over_v4, over_v6 = self.vector(over_v4), self.vector(over_v6)
        self.builder.StartObject(2)
        self.builder.PrependUOffsetTRelativeSlot(0, over_v4, 0)
        self.builder.PrependUOffsetTRelativeSlot(1, over_v6, 0)
        self.event(NETWORK, self.builder.EndObject())

    def listening(self, ports):
        """Snapshots of (address, port, protocol)."""

        def packed(address, port, protocol):
            return ipaddress.ip_address(address).packed + port.to_bytes(2, "little") + bytes([protocol, 0])

        over = {4: [], 6: []}
        for port in ports:
            over[ipaddress.ip_address(port[0]).version].append(packed(*port))
        lists = [self.structs(4, over[version]) if over[version] else 0 for version in (4, 6)]
        self.builder.StartObject(2)
        for slot, offset in enumerate(lists):
            self.builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        self.event(PORTS, self.builder.EndObject())

    def system(self, *texts):
        texts = [self.builder.CreateString(text) for text in texts]
        self.builder.StartObject(3)
        for slot, text in enumerate(texts):
            self.builder.PrependUOffsetTRelativeSlot(slot, text, 0)
        self.event(SYSTEM, self.builder.EndObject())

    def process(self, executable, user, command_line, kind, hits=1):
        builder = self.builder
        executable, user, command_line = map(builder.CreateString, (executable, user, command_line))
        builder.StartObject(8)
        builder.PrependUOffsetTRelativeSlot(0, executable, 0)
        builder.PrependUint32Slot(1, 70_000, 0)
        builder.PrependUint32Slot(2, 1, 0)
        builder.PrependUint32Slot(3, 1000, 0)
        builder.PrependUOffsetTRelativeSlot(4, user, 0)
        builder.PrependUOffsetTRelativeSlot(5, command_line, 0)
        builder.PrependInt8Slot(6, kind, 0)
        builder.PrependUint32Slot(7, hits, 1)
        self.event(PROCESS, builder.EndObject())

    def empty(self, kind):
        """An event whose table has no fields; all that is known of later kinds."""
        self.builder.StartObject(0)
        self.event(kind, self.builder.EndObject())

    def body(self):
        builder = self.builder
        events = self.vector(self.events)
        agent = builder.CreateString("7c9e6679-7425-40de-944b-e07fc1f90ae7")
        builder.StartObject(4)
        builder.PrependUOffsetTRelativeSlot(0, agent, 0)
        builder.PrependUint32Slot(1, 0x03050004, 0)
        builder.PrependUOffsetTRelativeSlot(3, events, 0)
        builder.Finish(builder.EndObject())
        return bytes(builder.Output())


def sample():
    """One of each kind, and two that no posture has a place for."""
    message = Message()
    message.network(
        [
            message.flow(("192.0.2.7", 50_000), ("198.51.100.4", 443), TCP, 812, "/usr/bin/curl"),
            message.flow(("192.0.2.7", 0), ("198.51.100.9", 0), ICMP),
        ],
        [message.flow(("2001:db8::7", 5353), ("ff02::fb", 5353), UDP)],
    )
    message.system("Azure RTOS 6.1", "Linux 5.15.0", "Model T")
    message.listening([("0.0.0.0", 22, TCP), ("127.0.0.1", 53, UDP), ("::", 8883, TCP)])
    message.empty(HEARTBEAT)
    message.empty(BASELINE)
    message.process("/usr/bin/curl", "ann", "curl example.com", 1, hits=3)
    message.process("/bin/ls", "ann", "", 2)
    message.empty(11)
    return message.body()


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as file:
        file.write(sample())
