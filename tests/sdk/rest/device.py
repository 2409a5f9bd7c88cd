"""A device of MQTT with nothing but Python's own library: it answers every method, until it is told to
leave. And what devices prove themselves by.
"""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import threading
import time
import urllib.parse

# Longest that anything may take that should happen.
SOON = 60
CONNECT, CONNACK, PUBLISH, SUBSCRIBE, SUBACK, PINGREQ = 0x10, 0x20, 0x30, 0x82, 0x90, 0xC0
# Half of what the hub may be told that the device is silent for.
PING_EVERY = 60
METHODS = "$iothub/methods/POST/"


def signature(resource, key, policy=None):
    """A token for a resource, good for a day."""
    resource, expires = urllib.parse.quote(resource, safe=""), int(time.time()) + 86400
    digest = hmac.new(base64.b64decode(key), f"{resource}\n{expires}".encode(), hashlib.sha256).digest()
    signed = urllib.parse.quote(base64.b64encode(digest), safe="")
    token = f"SharedAccessSignature sr={resource}&sig={signed}&se={expires}"
    return f"{token}&skn={policy}" if policy else token


def derive(group_key, registration):
    """The key of a device of a group."""
    key = base64.b64decode(group_key)
    return base64.b64encode(hmac.digest(key, registration.encode(), hashlib.sha256)).decode()


def text(value):
    data = value.encode()
    return len(data).to_bytes(2, "big") + data


def packet(kind, body):
    length, rest = b"", len(body)
    while True:
        rest, low = rest >> 7, rest & 0x7F
        length += bytes([low | (0x80 if rest else 0)])
        if not rest:
            return bytes([kind]) + length + body


def connect(connection):
    """The CONNECT of a device, by its connection string."""
    fields = dict(field.split("=", 1) for field in connection.split(";"))
    host, device = fields["HostName"], fields["DeviceId"]
    password = signature(f"{host}/devices/{device}", fields["SharedAccessKey"])
    head = text("MQTT") + bytes([4, 0xC2]) + (2 * PING_EVERY).to_bytes(2, "big")
    return packet(CONNECT, head + text(device) + text(f"{host}/{device}/?api-version=2021-04-12") + text(password))


class Answering:
    """Is connected as soon as it is made."""

    def __init__(self, hub, connection):
        trust = ssl.create_default_context(cafile=hub.variables["TWINWARD_CA_FILE"])
        port = int(hub.variables["TWINWARD_MQTTS_PORT"])
        plain = socket.create_connection((hub.address, port), timeout=SOON)
        self.stream = trust.wrap_socket(plain, server_hostname=hub.address)
        self.answered, self.problem, self.leaving = 0, None, False
        self.stream.sendall(connect(connection))
        kind, body = self._packet()
        assert (kind, body[1]) == (CONNACK, 0), (kind, body)
        self.stream.sendall(packet(SUBSCRIBE, b"\x00\x01" + text(f"{METHODS}#") + b"\x00"))
        kind, body = self._packet()
        assert kind == SUBACK, (kind, body)
        self.stream.settimeout(PING_EVERY)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def close(self):
        self.leaving = True
        try:
            self.stream.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.thread.join()
        self.stream.close()

    def _run(self):
        try:
            while True:
                self._step()
        except (OSError, EOFError) as error:
            if not self.leaving:
                self.problem = error

    def _step(self):
        try:
            kind, body = self._packet()
        except TimeoutError:
            self.stream.sendall(packet(PINGREQ, b""))
            return
        if kind & 0xF0 != PUBLISH:
            return
        end = 2 + int.from_bytes(body[:2], "big")
        topic, body = body[2:end].decode(), body[end:] if kind & 6 == 0 else body[end + 2 :]
        assert topic.startswith(METHODS), topic
        request = topic.split("$rid=", 1)[1]
        # What was sent is JSON, whatever was asked for.
        payload = json.dumps({"heard": json.loads(body or b"null")}).encode()
        self.stream.sendall(packet(PUBLISH, text(f"$iothub/methods/res/200/?$rid={request}") + payload))
        self.answered += 1

    def _packet(self):
        kind, length, shift = self._bytes(1)[0], 0, 0
        while True:
            (byte,) = self._bytes(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return kind, self._bytes(length)

    def _bytes(self, count):
        found = b""
        while len(found) < count:
            more = self.stream.recv(count - len(found))
            if not more:
                raise EOFError("the hub closed the connection")
            found += more
        return found
