"""REFERENCE.md, *HTTP*: health, CORS, other paths, subprotocols."""
import asyncio
import base64
import hashlib
import json
import socket

import pytest

from support.raw_ws import Gone, RawWs
from support.wait import wait_for

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, 1.3
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.fixture(scope="module")
def f(module_fleet):
    """gateways[1] serves pages of one origin only, gateways[2] two sessions an address, from behind a proxy too."""
    fleet = module_fleet()
    fleet.add_gateway({"gateway": {"origins": ["https://brainlife.io"]}})
    fleet.add_gateway({"gateway": {"address_sessions_max": 2, "trusted_proxies": ["127.0.0.0/8"]}})
    wait_for(lambda: health(fleet)["amqp_connected"], 15, "the gateway to hear ingest's tick")
    return fleet


ORIGINS, CROWDED = 1, 2


class Answer:
    def __init__(self, raw):
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.version, self.status = lines[0].split(" ")[0], int(lines[0].split(" ")[1])
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            assert name.lower() not in self.headers, f"twice: {name}"
            self.headers[name.lower()] = value.strip()


def exchange(f, text, gateway=0):
    """Send the bytes, read until the gateway closes the connection."""
    host, port = f.gateways[gateway].listen.split(":")
    with socket.create_connection((host, int(port)), timeout=15) as s:
        s.sendall(text if isinstance(text, bytes) else text.encode("latin-1"))
        raw = b""
        while True:
            piece = s.recv(65536)
            if not piece:
                return Answer(raw)
            raw += piece


def get(f, target, method="GET", gateway=0, version="HTTP/1.1", **headers):
    lines = {"Host": "x", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return exchange(f, f"{method} {target} {version}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n",
                    gateway)


def health(f, gateway=0):
    answer = get(f, "/health", gateway=gateway)
    assert answer.status == 200
    return json.loads(answer.body)


@pytest.mark.parametrize("target", ["/health", "/health/", "/HEALTH?x=1", "/Health"])
def test_health_is_the_original_s_byte_for_byte(f, target):
    """Row: /health."""
    answer = get(f, target)
    assert answer.status == 200
    assert answer.body == b'{"status":"ok","amqp_connected":true,"message":"all good"}'
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.headers["content-length"] == "58"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["connection"] == "close"


def test_health_is_the_same_for_a_page(f):
    """Row: CORS."""
    answer = get(f, "/health", Origin="https://brainlife.io")
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "*"


def test_health_of_a_head_request_has_no_body(f):
    answer = get(f, "/health", method="HEAD")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "58", b"")


def test_http_1_0_is_served(f):
    answer = exchange(f, "GET /health HTTP/1.0\r\n\r\n")
    assert answer.status == 200 and json.loads(answer.body)["status"] == "ok"


def test_one_request_is_served_per_connection(f):
    """The original kept the connection; ours says that it does not."""
    answer = exchange(f, "GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /nope HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.status == 200 and answer.headers["connection"] == "close"
    assert answer.body == b'{"status":"ok","amqp_connected":true,"message":"all good"}'


def test_health_tells_the_true_state_of_the_broker(fleet, rabbit, proxy):
    """Row: /health, mended: the original said "all good" whatever happened. HTTP 200 either way."""
    vhost = rabbit.add_vhost("health")
    between = proxy(rabbit.port)
    f = fleet(amqp_url=rabbit.url(vhost, port=between.port))
    wait_for(lambda: health(f) == {"status": "ok", "amqp_connected": True, "message": "all good"}, 15, "a tick")
    between.set("refuse")
    failed = wait_for(lambda: (h := health(f))["amqp_connected"] is False and h, 15, "the gateway to hear of it")
    assert failed["status"] == "failed" and failed["message"] not in ("", "all good")
    between.set("pass")
    wait_for(lambda: health(f)["status"] == "ok", 40, "ingest to reconnect")
    f.ingest.stop()
    wait_for(lambda: health(f)["amqp_connected"] is False, 15, "the gateway to miss ingest's ticks")


@pytest.mark.parametrize("target", ["/", "/foo/bar?<b>", "/subscribe", "/subscribe/.websocket", "/%E0%A4%A", "/healthy",
                                    "/health/x", "/subscribe?jwt=x", "/metrics", "/readyz", "/livez"])
def test_an_unknown_path_is_404(f, target):
    """Row: unknown paths; also GET /subscribe without an upgrade, and the paths of the admin port."""
    answer = get(f, target)
    assert answer.status == 404
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_other_methods_are_404(f, method):
    for target in ("/health", "/subscribe", "/notification"):
        answer = get(f, target, method=method, Content_Length="0")
        assert answer.status == 404 and answer.headers["access-control-allow-origin"] == "*"


def test_a_body_that_nobody_reads_harms_nothing(f):
    answer = exchange(f, b"POST /foo HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n" + b"x" * 20)
    assert answer.status == 404


def test_a_preflight_is_answered_as_the_original_did(f):
    """Row: CORS."""
    answer = get(f, "/health", method="OPTIONS", Origin="https://brainlife.io", Access_Control_Request_Method="POST",
                 Access_Control_Request_Headers="authorization,content-type")
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-methods"] == "GET,HEAD,PUT,PATCH,POST,DELETE"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type"


def test_options_without_an_origin_is_answered_too(f):
    """Row: CORS."""
    answer = get(f, "/foo", method="OPTIONS")
    assert answer.status == 204
    assert answer.headers["access-control-allow-methods"] == "GET,HEAD,PUT,PATCH,POST,DELETE"
    assert "access-control-allow-headers" not in answer.headers


def test_cors_names_the_configured_origins_only(f):
    """Row: CORS (ours: the configured origins, * by default)."""
    ours = get(f, "/health", gateway=ORIGINS, Origin="https://brainlife.io")
    assert ours.headers["access-control-allow-origin"] == "https://brainlife.io"
    assert ours.headers["vary"] == "Origin"
    for headers in ({"Origin": "https://evil.example"}, {}):
        assert "access-control-allow-origin" not in get(f, "/health", gateway=ORIGINS, **headers).headers


def test_a_page_of_a_foreign_origin_may_not_connect(f, token):
    """The original let every page connect."""
    url = f"{f.gateways[ORIGINS].ws}?jwt={token()}"
    for origin, status in (("https://brainlife.io", 101), ("https://evil.example", 403), ("null", 403),
                           ("https://brainlife.io.evil.example", 403), ("http://brainlife.io", 403)):
        with RawWs(url, headers=[("Origin", origin)]) as c:
            assert c.status == status, origin
    with RawWs(url) as c:
        assert c.status == 101  # not a page
    with RawWs(f"{f.ws}?jwt={token()}", headers=[("Origin", "http://evil.example")]) as c:
        assert c.status == 101  # origins is ["*"]


@pytest.mark.parametrize("path", ["/", "/nope", "/health", "/subscribe/x", "/subscribed"])
def test_a_websocket_on_another_path_is_404(f, token, path):
    """Row: WebSocket on another path: 101 then close in the original."""
    with RawWs(f"ws://{f.gateway.listen}{path}?jwt={token()}") as c:
        assert c.status == 404


@pytest.mark.parametrize("path", ["/subscribe", "/subscribe/", "/SUBSCRIBE", "/Subscribe/"])
def test_subscribe_is_found_in_any_case_and_with_a_slash(f, token, path):
    with RawWs(f"ws://{f.gateway.listen}{path}?jwt={token()}", headers=[("Sec-WebSocket-Key", KEY)]) as c:
        assert c.status == 101 and c.headers["sec-websocket-accept"] == ACCEPT
        c.send('{"bind":{"ex":"public","key":"ts.#"},"req":1}')
        assert json.loads(c.recv_text())["ok"] is True
        f.publish("public", "ts.1", {"a": 1})
        assert json.loads(c.recv_text())["msg"] == {"a": 1}


@pytest.mark.parametrize("offered, echoed", [("a, b", "a"), ("b", "b"), ("a,b,c", "a"), (None, None)])
def test_the_first_offered_subprotocol_is_echoed(f, token, offered, echoed):
    """Row: subprotocol."""
    headers = [("Sec-WebSocket-Protocol", offered)] if offered else []
    with RawWs(f"{f.ws}?jwt={token()}", headers=headers) as c:
        assert c.status == 101
        assert c.headers.get("sec-websocket-protocol") == echoed


def test_a_subprotocol_that_is_a_token_is_echoed_only_if_there_is_no_other(f, token):
    """Row: subprotocol; a token of 1000 bytes and more is one too."""
    bearer = "bearer." + token(padding="x" * 1000)
    assert len(bearer) > 1500
    for offered, echoed in ((bearer, bearer), (f"{bearer}, a", "a"), (f"a, {bearer}", "a"), (f"{bearer}, a, b", "a")):
        with RawWs(f.ws, headers=[("Sec-WebSocket-Protocol", offered)]) as c:
            assert c.status == 101 and c.headers["sec-websocket-protocol"] == echoed
            c.send('{"bind":{"ex":"wf.instance","key":"na.#"},"req":1}')
            assert json.loads(c.recv_text())["ok"] is True  # needs the token


@pytest.mark.parametrize("offer", ["permessage-deflate", "permessage-deflate; client_max_window_bits",
                                   "permessage-deflate; bogus=1", "x-webkit-deflate-frame"])
def test_compression_is_not_negotiated(f, token, offer):
    """Row: permessage-deflate is negotiated (ours: not by default). What is offered may be left out (RFC 6455, 9.1)."""
    with RawWs(f"{f.ws}?jwt={token()}", headers=[("Sec-WebSocket-Extensions", offer)]) as c:
        assert c.status == 101 and "sec-websocket-extensions" not in c.headers
        c.send('{"bind":{"ex":"public","key":"r.#"},"req":1}')
        assert json.loads(c.recv_text())["ok"] is True
        f.publish("public", "r.big", {"p": "y" * 2000})
        assert json.loads(c.recv_text())["msg"] == {"p": "y" * 2000}


@pytest.mark.parametrize("what, how", [
    ("no key", {"drop": ["Sec-WebSocket-Key"]}),
    ("a short key", {"headers": [("Sec-WebSocket-Key", "abcd")]}),
    ("two keys", {"headers": [("+Sec-WebSocket-Key", KEY)]}),
    ("version 12", {"headers": [("Sec-WebSocket-Version", "12")]}),
    ("version 8", {"headers": [("Sec-WebSocket-Version", "8")]}),
    ("no version", {"drop": ["Sec-WebSocket-Version"]}),
    ("no Connection: Upgrade", {"headers": [("Connection", "close")]}),
    ("no Host", {"drop": ["Host"]}),
    ("two Hosts", {"headers": [("+Host", "y")]}),
    ("POST", {"method": "POST"}),
    ("HTTP/1.0", {"version": "HTTP/1.0"}),
    ("two Origins", {"headers": [("+Origin", "http://a"), ("+Origin", "http://b")]}),
])
def test_a_bad_handshake_is_400(f, token, what, how):
    """The original answered 400 to those that it noticed."""
    with RawWs(f"{f.ws}?jwt={token()}", upgrade=False) as c:
        c.send_upgrade(**how)
        assert c.status == 400, what
        assert c.headers["connection"] == "close"


@pytest.mark.parametrize("text", ["HELLO\r\n\r\n", "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n",
                                  "GET /health HTTP/1.1\r\nHost: x\r\n folded: y\r\n\r\n",
                                  "GET /health HTTP/1.1\r\nHost: x\r\nbad name: y\r\n\r\n",
                                  "GET /he\0alth HTTP/1.1\r\nHost: x\r\n\r\n"],
                         ids=["no_http", "no_host", "folded", "bad_name", "NUL"])
def test_what_is_no_http_is_400(f, text):
    answer = exchange(f, text)
    assert answer.status == 400


def test_too_many_sessions_of_an_address_are_429(f, token):
    """No limit in the original. Behind a trusted proxy the client's own address counts."""
    url = f"{f.gateways[CROWDED].ws}?jwt={token()}"
    with RawWs(url) as a, RawWs(url) as b, RawWs(url) as c:
        assert [a.status, b.status, c.status] == [101, 101, 429]
        assert json.loads(c.body)["code"] == "rate_limited"
        with RawWs(url, headers=[("X-Forwarded-For", "192.0.2.7")]) as d:
            assert d.status == 101
        a.send(b"\x03\xe8", opcode=8)
        assert a.recv_close()[0] == 1000

        def admitted():
            with RawWs(url) as e:
                return e.status == 101
        wait_for(admitted, 10, "the place of the session that left")


def test_a_stopping_gateway_is_503_or_gone(f, token):
    """SIGTERM: what still gets in hears that the server is going away."""
    gateway = f.add_gateway({"gateway": {"drain_timeout_s": 5}})
    url = f"{gateway.ws}?jwt={token()}"
    with RawWs(url) as a, RawWs(url) as b:
        gateway.process.signal(15)
        wait_for(lambda: not gateway.is_ready(), 5, "it to be not ready")
        try:
            with RawWs(url) as late:
                assert late.status == 503
        except (ConnectionRefusedError, Gone):
            pass
        assert a.recv_close()[0] == b.recv_close()[0] == 1001
    assert gateway.process.wait(15) == 0


def test_sec_websocket_accept_is_computed_from_the_key(f, token):
    async def go():
        async with f.client(token(), subprotocols=["x"]) as c:
            assert c.socket.subprotocol == "x"
    asyncio.run(go())
    assert base64.b64encode(hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode() == ACCEPT
