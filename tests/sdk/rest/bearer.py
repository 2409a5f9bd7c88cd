"""What bearer tokens open at the REST door, asked with nothing but Python's own library.

Prints `{"name": [status, body], ...}` for each request of the JSON list in argv[3]: objects with
`name`, `method`, `path`, `token` (or `policy` and `key` of a shared access policy), `body`, `ifMatch`,
and `stall`: how many bytes of body are promised of which only one is sent; it is answered before the
rest comes, or not at all.
"""

import base64
import hashlib
import hmac
import http.client
import json
import ssl
import sys
import time
import urllib.parse

HOST, CA, REQUESTS = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])


def proof(request):
    if "token" in request:
        return f"Bearer {request['token']}"
    resource, expires = "localhost", int(time.time()) + 3600
    key = base64.b64decode(request["key"])
    signature = hmac.new(key, f"{resource}\n{expires}".encode(), hashlib.sha256).digest()
    sig = urllib.parse.quote(base64.b64encode(signature), safe="")
    return f"SharedAccessSignature sr={resource}&sig={sig}&se={expires}&skn={request['policy']}"


def ask(request):
    context = ssl.create_default_context(cafile=CA)
    connection = http.client.HTTPSConnection(HOST, context=context, timeout=20)
    separator = "&" if "?" in request["path"] else "?"
    connection.putrequest(request["method"], f"{request['path']}{separator}api-version=2021-04-12")
    connection.putheader("Authorization", proof(request))
    if "ifMatch" in request:
        connection.putheader("If-Match", request["ifMatch"])
    body = json.dumps(request["body"]).encode() if "body" in request else b""
    connection.putheader("Content-Length", str(request.get("stall", len(body))))
    connection.putheader("Content-Type", "application/json")
    connection.endheaders(body[:1] if "stall" in request else body)
    answer = connection.getresponse()
    text = answer.read().decode()
    return [answer.status, json.loads(text) if text else None]


print(json.dumps({request["name"]: ask(request) for request in REQUESTS}))
