"""A back end that calls too often is told so in IoT Hub's words, and nobody else is.

Needs TWINWARD_BIN and nothing but Python: calls are made by hand, because SDKs wait and try again.
"""

import base64
import hashlib
import hmac
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))

from hub import Hub, wait_for  # noqa: E402

# A caller may do at once what it may do in five seconds, an address what it may in a minute.
PER_SECOND, UNPROVEN = 2, 5


class Limited(Hub):
    def config(self):
        path = super().config()
        rates = f"requests_per_second = {PER_SECOND}\nunproven_per_minute = {UNPROVEN}\n"
        path.write_text(f"{path.read_text()}\n[gateway.rates]\n{rates}")
        return path


def token(fields, policy, key):
    resource, expires = urllib.parse.quote(fields["HostName"], safe=""), int(time.time()) + 3600
    text = f"{resource}\n{expires}".encode()
    signature = base64.b64encode(hmac.new(base64.b64decode(key), text, hashlib.sha256).digest())
    sig = urllib.parse.quote(signature, safe="")
    return f"SharedAccessSignature sr={resource}&sig={sig}&se={expires}&skn={policy}"


def main():
    hub = Limited()
    try:
        connection = hub.variables["TWINWARD_SERVICE_CONNECTION_STRING"]
        fields = dict(field.split("=", 1) for field in connection.split(";"))
        owner = token(fields, fields["SharedAccessKeyName"], fields["SharedAccessKey"])
        trust = ssl.create_default_context(cafile=hub.variables["TWINWARD_CA_FILE"])

        def call(authorization):
            url = f"https://{hub.address}:{hub.variables['TWINWARD_HTTPS_PORT']}"
            request = urllib.request.Request(f"{url}/statistics/devices?api-version=2021-04-12")
            request.add_header("Authorization", authorization)
            try:
                answer = urllib.request.urlopen(request, context=trust, timeout=30)
            except urllib.error.HTTPError as error:
                answer = error
            with answer:
                return answer.status, answer.headers, answer.read().decode()

        # Twice the burst, so that even slow calls are too many.
        answers = [call(owner) for _ in range(10 * PER_SECOND)]
        refused = [answer for answer in answers if answer[0] == 429]
        assert {answer[0] for answer in answers} == {200, 429}, [a[0] for a in answers]
        _, headers, body = refused[0]
        assert headers["iothub-errorcode"] == "ThrottlingException", headers
        assert int(headers["Retry-After"]) >= 1, headers
        assert "ErrorCode:ThrottlingException" in body, body
        # Who has proven nothing is told that, until its address has done so too often.
        wrong = token(fields, "nobody", fields["SharedAccessKey"])
        statuses = [call(wrong)[0] for _ in range(2 * UNPROVEN)]
        assert statuses[:UNPROVEN] == [401] * UNPROVEN and statuses[-1] == 429, statuses
        # That shuts no good key or token out, and the owner's turn comes again.
        wait_for("the owner's turn", lambda: call(owner)[0] == 200)
        assert call("Bearer made-up")[0] == 429
        assert call(f"Bearer {hub.variables['TWINWARD_ADMIN_TOKEN']}")[0] == 200
        assert call("Bearer made-up")[0] == 429
        url = hub.variables["TWINWARD_GATEWAY_METRICS_URL"] + "/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            metrics = answer.read().decode()
        for caller in ("policy", "address"):
            assert f'twinward_gateway_throttled_total{{caller="{caller}"}}' in metrics, metrics
        lines = (hub.path / "up.log").read_text().splitlines()
        told = [line for line in lines if "requests are refused (429)" in line]
        assert len(told) == 2, told
        print("ok", flush=True)
    finally:
        hub.close()


main()
