"""A hub for one test class: `twinward up` on a loopback address of its own.

The SDK connects to port 8883 and no other, or to 443 by WebSocket, so each hub takes an address of 127.0.0.0/8 instead. The
connection strings carry that address, and the hub's certificate has it.
"""

import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

PROGRAM = os.environ.get("TWINWARD_BIN", "twinward")
SOON = 60.0


def wait_for(what, look, within=SOON):
    """What `look` sees, as soon as it sees something."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        seen = look()
        if seen:
            return seen
        time.sleep(0.05)
    raise AssertionError(f"gave up waiting for {what}")


def free_address():
    """A loopback address whose ports 8883 and 443 are free."""
    for _ in range(100):
        address = f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.{random.randint(1, 254)}"
        with socket.socket() as mqtt, socket.socket() as https:
            try:
                mqtt.bind((address, 8883))
                https.bind((address, 443))
                return address
            except OSError:
                continue
    raise AssertionError("no loopback address has its ports 8883 and 443 free for us")


class Hub:
    def __init__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="twinward-sdk-")
        self.path = Path(self.directory.name)
        self.address = free_address()
        self.env_file = self.path / "hub.env"
        self.log = open(self.path / "up.log", "wb")
        self.process = None
        self.start()

    def start(self):
        command = [PROGRAM, "up", "--any-port", "--data-dir", self.path / "data"]
        command += ["--env-file", self.env_file, "--host", self.address]
        command += ["--mqtt-listen", f"{self.address}:8883"]
        command += ["--config", self.config()]
        command += ["--gateway-listen", f"{self.address}:443"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        wait_for("the hub", self._is_up)
        self.variables = {}
        for line in self.env_file.read_text().splitlines():
            if line.startswith("export "):
                name, value = line[len("export ") :].split("=", 1)
                self.variables[name] = value.strip("'")

    def config(self):
        """An authority for devices, which the command line has made, and ingestion trusting it."""
        self.certificate("unused")
        path = self.path / "up.toml"
        path.write_text(f'[ingestion]\ndevice_ca_file = "{self.devices}/ca.pem"\n')
        return path

    def certificate(self, identity):
        """The files of a certificate that the authority has signed."""
        self.devices = self.path / "devices"
        command = [PROGRAM, "certs", "device", identity, "--dir", self.devices, "--file", "last"]
        subprocess.run(command, check=True, capture_output=True)
        return str(self.devices / "last.pem"), str(self.devices / "last.key")

    def _is_up(self):
        if self.process.poll() is not None:
            raise AssertionError(f"up ended: {(self.path / 'up.log').read_text()}")
        return self.env_file.exists()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=SOON)
        assert code == 0, f"up ended with {code}: {(self.path / 'up.log').read_text()}"

    def close(self):
        self.stop()
        self.log.close()
        self.directory.cleanup()

    def ca(self):
        """What the device must believe, as the SDK wants it."""
        return Path(self.variables["TWINWARD_CA_FILE"]).read_text()

    def cli(self, *arguments):
        """What a verb of the command line answers."""
        return json.loads(self.cli_text(*arguments))

    def cli_text(self, *arguments):
        """The same as text, for verbs that answer with one JSON object a line."""
        command = [PROGRAM, "--env-file", self.env_file, "-o", "json", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SOON)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, device, *arguments):
        """Creates a device; its connection string, if it has keys."""
        answer = self.cli("device", "create", device, "--no-security-module", *arguments)
        return answer.get("connectionString")

    def connection(self, device):
        """The connection string of a device that is there."""
        return self.cli("device", "get", device, "--show-keys")["connectionString"]

    def desire(self, device, patch):
        self.cli("twin", "patch", device, "--desired", json.dumps(patch))

    def metric(self, name, service="INGESTION"):
        """A counter of a service, over all its labels."""
        url = self.variables[f"TWINWARD_{service}_METRICS_URL"] + "/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0].endswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)
