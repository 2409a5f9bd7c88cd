"""An OIDC provider of one test: it describes itself, publishes its key, and signs tokens with it.

Nothing but Python, whose big integers are all that RSA needs; the key is the tests' own.
"""

import base64
import hashlib
import http.server
import json
import threading
import time
from pathlib import Path

KEY = Path(__file__).resolve().parents[3] / "crates" / "testkit" / "fixtures" / "rsa-2048.der"
AUDIENCE = "twinward"
# What stands before a SHA-256 hash that is signed (PKCS #1).
SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")


def values(der):
    """What a DER sequence consists of."""
    while der:
        length, begin = der[1], 2
        if length & 0x80:
            begin += length & 0x7F
            length = int.from_bytes(der[2:begin], "big")
        yield der[begin : begin + length]
        der = der[begin + length :]


def text(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Provider:
    def __init__(self):
        # PKCS #8: a version, an algorithm, and the key as it is in PKCS #1.
        (whole,) = values(KEY.read_bytes())
        (key,) = values(list(values(whole))[2])
        numbers = [int.from_bytes(number, "big") for number in values(key)]
        self.modulus, self.exponent, self.secret = numbers[1:4]
        self.size = (self.modulus.bit_length() + 7) // 8
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                body = json.dumps(provider.page(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def page(self, path):
        if path.endswith("/keys"):
            number = lambda it: text(it.to_bytes((it.bit_length() + 7) // 8, "big"))  # noqa: E731
            key = {"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256"}
            return {"keys": [key | {"n": number(self.modulus), "e": number(self.exponent)}]}
        return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys"}

    def token(self, name, role):
        """A token of somebody with a role, good for a day."""
        now = int(time.time())
        claims = {"iss": self.issuer, "aud": AUDIENCE, "sub": name, "roles": [role]}
        claims |= {"iat": now, "exp": now + 86400}
        header = {"typ": "JWT", "alg": "RS256", "kid": "1"}
        message = ".".join(text(json.dumps(part).encode()) for part in (header, claims))
        hashed = SHA256 + hashlib.sha256(message.encode()).digest()
        padded = b"\x00\x01" + b"\xff" * (self.size - len(hashed) - 3) + b"\x00" + hashed
        signed = pow(int.from_bytes(padded, "big"), self.secret, self.modulus)
        return f"{message}.{text(signed.to_bytes(self.size, 'big'))}"

    def configuration(self):
        """What twin-store must be told."""
        return f'[twin-store.auth]\noidc_issuer = "{self.issuer}"\noidc_audience = "{AUDIENCE}"\n'

    def close(self):
        self.server.shutdown()
        self.server.server_close()
