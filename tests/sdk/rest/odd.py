"""Odd requests that schemathesis does not make, each from its seed: calls of methods with short times,
registrations over HTTPS, and WebSockets.

Nothing but Python. Some of each kind are as they should be, and have to be answered as only who handles
that kind answers: a method by the device that is connected, a registration with its operation, a
CONNECT over a WebSocket with a CONNACK. So it is known that the odd ones get that far, too: no answer to
them is an error of the server, and each connection is answered or closed in time.
"""

import base64
import http.client
import json
import os
import random
import socket
import ssl
import struct
import threading
import urllib.parse

from device import SOON, Answering, connect, derive, signature

# Requests at the same time.
AT_ONCE = 8
# So many of each kind are as they should be.
GOOD = 0.3
# The device that answers methods, and the group whose devices register.
DEVICE, GROUP = "methods-1", "odd"
# A gateway that is used up waits for a device to answer; nobody is there to answer.
GATEWAY_TIMEOUT = 504
NAMES = ["", "d", DEVICE, DEVICE, DEVICE, "a b", "%", "%2", "%00", "..", "\u00e4", "x" * 129, "$", "d/modules/m"]
VALUES = [
    None, True, False, 0, -1, 1, 5, 2**53, 1e400, -0.0, 1.5, "", "0", "null", "\u0000", "\ud7ff", [], {}, [[]],
    {"a": {"b": {"c": []}}}, "x" * 200, "x" * 140_000, ["x"] * 1000,
]  # fmt: skip
# What may stand for a time without anybody having to wait for long.
TIMES = [0, 1, -1, 5, 4, 0.5, "5", None, True, [], {}, 301, 2**64, "soon"]


class Odd:
    """Sends so many, and counts what is answered."""

    def __init__(self, hub, authorizations, seed):
        self.hub, self.seed = hub, seed
        self.authorizations = authorizations
        self.port = int(hub.variables["TWINWARD_HTTPS_PORT"])
        self.trust = ssl.create_default_context(cafile=hub.variables["TWINWARD_CA_FILE"])
        self.lock = threading.Lock()
        self.counts, self.problems, self.good = {}, [], {}
        self.scope = hub.variables["TWINWARD_DPS_ID_SCOPE"]
        self.group_key = self._made(["provisioning", "get", GROUP, "--group", "--show-keys"], [
            "provisioning", "create", GROUP, "--group",
        ])["primaryKey"]  # fmt: skip
        # One of each thread, so that none takes over another's session.
        self.devices = [self._device(f"odd-{turn}") for turn in range(AT_ONCE)]
        self.turn = threading.local()

    def _made(self, get, create):
        """What is there from an earlier round, or made."""
        try:
            return self.hub.cli(*get)
        except AssertionError:
            return self.hub.cli(*create)

    def _device(self, name):
        create = ["device", "create", name, "--no-security-module"]
        return self._made(["device", "get", name, "--show-keys"], create)["connectionString"]

    def send(self, count):
        """`count` requests, of all kinds; answers how many were answered, by status."""
        answering = Answering(self.hub, self._device(DEVICE))
        try:
            threads = [threading.Thread(target=self._some, args=(turn, count)) for turn in range(AT_ONCE)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            answering.close()
        assert not self.problems, self.problems[:5]
        assert answering.problem is None, answering.problem
        # Each kind has reached who handles it.
        assert set(self.good) == {"_method", "_registration", "_websocket"}, self.good
        assert answering.answered >= self.good["_method"], (answering.answered, self.good)
        return self.counts

    def _some(self, turn, count):
        self.turn.number = turn
        for number in range(turn, count, AT_ONCE):
            chance = random.Random(f"{self.seed}/{number}")
            kind = chance.choice([self._method, self._registration, self._websocket])
            self.turn.wanted = None
            try:
                status = kind(chance)
            except TimeoutError:
                status = "not answered in time"
            except (OSError, http.client.HTTPException) as error:
                # It was closed: what is no HTTP may be. Whether the hub lives is looked at in the end.
                status = f"closed ({type(error).__name__})"
            with self.lock:
                self.counts[status] = self.counts.get(status, 0) + 1
                wanted = self.turn.wanted
                if wanted is None:
                    error = isinstance(status, int) and status >= 500 and status != GATEWAY_TIMEOUT
                    is_bad = error or status == "not answered in time"
                else:
                    is_bad = status != wanted
                    self.good[kind.__name__] = self.good.get(kind.__name__, 0) + (not is_bad)
                if is_bad:
                    self.problems.append((kind.__name__, self.seed, number, status, wanted))

    def _is_good(self, chance, wanted):
        """Whether a request is to be as it should be; then it has to be answered with `wanted`."""
        if chance.random() >= GOOD:
            return False
        self.turn.wanted = wanted
        return True

    def _call(self, method, path, headers, body):
        connection = http.client.HTTPSConnection(
            self.hub.address, self.port, timeout=SOON, context=self.trust
        )
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in headers:
                connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def _body(self, chance, fields):
        """A JSON object of some of the fields, or something else."""
        kind = chance.random()
        if kind < 0.05:
            return chance.randbytes(chance.randrange(200))
        if kind < 0.1:
            return json.dumps(chance.choice(VALUES)).encode(errors="replace")
        body = {name: chance.choice(values) for name, values in fields.items() if chance.random() < 0.8}
        text = json.dumps(body).encode(errors="replace")
        # Sometimes it breaks off.
        return text[: chance.randrange(len(text))] if chance.random() < 0.05 else text

    def _headers(self, chance):
        authorization = chance.choice(self.authorizations)
        headers = [("Content-Type", "application/json; charset=utf-8")]
        return headers + ([("Authorization", authorization)] if authorization else [])

    def _version(self, chance):
        return chance.choice(["?api-version=2021-04-12"] * 8 + ["", "?api-version=", "?api-version=soon"])

    def _method(self, chance):
        if self._is_good(chance, 200):
            payload = chance.choice([None, True, 0, -1.5, "", "a", [], [1], {"a": {"b": []}}])
            body = {"methodName": "odd", "payload": payload, "responseTimeoutInSeconds": 60}
            headers = [("Content-Type", "application/json"), ("Authorization", self.authorizations[0])]
            path = f"/twins/{DEVICE}/methods?api-version=2021-04-12"
            return self._call("POST", path, headers, json.dumps(body).encode())
        device = urllib.parse.quote(chance.choice(NAMES), safe=chance.choice(["", "/%"]))
        module = chance.choice(["", "", "/modules/m", "/modules/"])
        fields = {
            "methodName": NAMES + VALUES,
            "payload": VALUES,
            "responseTimeoutInSeconds": TIMES,
            "connectTimeoutInSeconds": [value for value in TIMES if value not in (5, 301, 2**64)],
            "more": VALUES,
        }
        body = self._body(chance, fields)
        path = f"/twins/{device}{module}/methods{self._version(chance)}"
        return self._call("POST", path, self._headers(chance), body)

    def _proof(self, name):
        """What proves a device of the group."""
        resource = f"{self.scope}/registrations/{name}"
        return "Authorization", signature(resource, derive(self.group_key, name), "registration")

    def _registration(self, chance):
        registration = f"reg-{chance.randrange(50)}"
        json_type = ("Content-Type", "application/json; charset=utf-8")
        if self._is_good(chance, 202):
            path = f"/{self.scope}/registrations/{registration}/register?api-version=2021-06-01"
            body = json.dumps({"registrationId": registration}).encode()
            return self._call("PUT", path, [json_type, self._proof(registration)], body)
        name = chance.choice([*NAMES, *[registration] * 6])
        headers = [json_type, self._proof(name)] if chance.random() < 0.5 else self._headers(chance)
        name = urllib.parse.quote(name, safe="")
        scopes = [*[self.scope] * 5, "0ne00000000", "", "x", "%", "0neFFFFFFFF"]
        scope = urllib.parse.quote(chance.choice(scopes), safe="%")
        what = chance.choice(["/register", "", "/operations/1", "/operations/", "/more", "/register/x"])
        method = chance.choice(["PUT", "PUT", "POST", "GET", "DELETE", "PATCH"])
        fields = {
            "registrationId": NAMES + VALUES,
            "payload": VALUES,
            "tpm": VALUES,
            "operationId": VALUES,
        }
        body = self._body(chance, fields)
        path = f"/{scope}/registrations/{name}{what}{self._version(chance)}"
        return self._call(method, path, headers, body)

    def _websocket(self, chance):
        key = base64.b64encode(os.urandom(16)).decode()
        good = self._is_good(chance, "CONNACK")
        odd = not good and chance.random() < 0.4
        pick = (lambda *values: chance.choice(values)) if odd else (lambda first, *_: first)
        head = [
            f"{pick('GET', 'POST', 'PUT')} {pick('/$iothub/websocket', '/%24iothub/websocket', '/')} HTTP/1.1",
            f"Host: {self.hub.address}",
            f"Upgrade: {pick('websocket', 'h2c', '', 'websocket, x')}",
            f"Connection: {pick('Upgrade', 'keep-alive', 'close', 'upgrade, keep-alive')}",
            f"Sec-WebSocket-Version: {pick('13', '12', '', '99999999999999999999')}",
            f"Sec-WebSocket-Key: {pick(key, '', 'x', key * 20)}",
            f"Sec-WebSocket-Protocol: {pick('mqtt', 'MQTT', '', 'amqp', ','.join(['mqtt'] * 100))}",
        ]
        if odd and chance.random() < 0.5:
            head.pop(chance.randrange(1, len(head)))
        with socket.create_connection((self.hub.address, self.port), timeout=SOON) as plain:
            with self.trust.wrap_socket(plain, server_hostname=self.hub.address) as stream:
                stream.sendall(("\r\n".join(head) + "\r\n\r\n").encode())
                answer = http.client.HTTPResponse(stream)
                answer.begin()
                if answer.status != 101:
                    return answer.status
                if good:
                    return self._connected(stream)
                for _ in range(chance.randrange(1, 6)):
                    stream.sendall(self._frame(chance))
                stream.sendall(b"\x88\x80" + os.urandom(4))
                # Its leave, or ours: what we sent is no CONNECT.
                while stream.recv(4096):
                    pass
                return 101

    def _connected(self, stream):
        """Connects a device, in a frame as it should be."""
        packet = connect(self.devices[self.turn.number])
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(packet))
        stream.sendall(b"\x82" + bytes([0x80 | 126]) + struct.pack("!H", len(packet)) + mask + masked)
        found = b""
        # A frame's head of two bytes, and the CONNACK.
        while len(found) < 6:
            more = stream.recv(4096)
            if not more:
                break
            found += more
        return "CONNACK" if found[:4] == b"\x82\x04\x20\x02" and found[5] == 0 else found.hex()

    def _frame(self, chance):
        payload = chance.randbytes(chance.choice([0, 1, 2, 125, 126, 5000]))
        if chance.random() < 0.3:
            # The beginning of a CONNECT.
            payload = b"\x10\x7f\x00\x04MQTT\x04\xc2" + payload
        first = chance.choice([0x82, 0x82, 0x82, 0x02, 0x80, 0x81, 0x89, 0x8A, 0x8B, 0xF2, 0x03])
        masked = 0x80 if chance.random() < 0.9 else 0
        told = len(payload) if chance.random() < 0.9 else chance.choice([0, 2**16 - 1, 2**63, 2**64 - 1])
        if told < 126:
            length = bytes([masked | told])
        elif told < 2**16:
            length = bytes([masked | 126]) + struct.pack("!H", told)
        else:
            length = bytes([masked | 127]) + struct.pack("!Q", told)
        return bytes([first]) + length + chance.randbytes(4 if masked else 0) + payload
