"""REFERENCE.md, *Tokens*: who may connect, and for how long.

The original answered every upgrade with 101 and then cut the connection; ours answers 401.
"""
import asyncio
import functools
import json
import time

import pytest

from support import tokens
from support.fleet import DELETE, default_exchanges, run
from support.raw_ws import RawWs
from support.wait import wait_for
from support.ws_client import HandshakeRefused


@functools.lru_cache
def build_knows(alg, key_file, directory):
    """libjwt knows PS256 and its like from 1.13 on; a program that cannot verify what its configuration names says so."""
    config = directory / f"{alg}.json"
    config.write_text(json.dumps({"jwt": {"keys": [{"alg": alg, "file": str(key_file)}]}}))
    done = run("gateway", "--config", config, "--check-config")
    assert done.returncode == 0 or f'cannot verify the algorithm "{alg}"' in done.stderr, done.stderr
    return done.returncode == 0


@pytest.fixture(scope="module")
def f(module_fleet, keys):
    """gateways[0]: as configured by default, with a public exchange. gateways[1]: nothing is public, and its key is named
    with more algorithms. gateways[2]: exp is required, and the clocks agree."""
    fleet = module_fleet(gateway={"session_requests_per_s": 0})
    key_file = fleet.config["jwt"]["keys"][0]["file"]
    algs = [alg for alg in ("RS256", "RS384", "RS512", "PS256") if build_knows(alg, keys.auth.public_file, keys.directory)]
    assert algs[:3] == ["RS256", "RS384", "RS512"]
    fleet.add_gateway({"exchanges": {"public": DELETE}, "jwt": {"keys": [{"alg": algs, "file": key_file}]}})
    fleet.add_gateway({"jwt": {"require_exp": True, "leeway_s": 0}})
    return fleet


PLAIN, NOT_PUBLIC, STRICT = 0, 1, 2


def upgrade(f, query="", gateway=PLAIN, headers=()):
    """The answer to an upgrade, as (status, headers, body)."""
    with RawWs(f.gateways[gateway].ws + query, headers=headers) as c:
        return c.status, c.headers, c.body


def check_refused(answer, code):
    status, headers, body = answer
    assert status == 401
    assert headers["content-type"].startswith("application/json")
    assert headers["www-authenticate"].startswith("Bearer")
    value = json.loads(body)
    assert value["code"] == code and value["error"]


def bad_tokens(keys):
    good = keys.auth.token()
    header, claims, signature = good.split(".")
    now = int(time.time())
    return {
        "empty": ("", "bad_token"),
        "garbage": ("abc", "bad_token"),
        "the word undefined": ("undefined", "bad_token"),
        "expired": (keys.auth.token(exp=-3600), "expired"),
        "not yet valid": (keys.auth.token(nbf=now + 3600), "bad_token"),
        "wrong key": (keys.other.token(), "bad_token"),
        "alg none": (tokens.unsigned({"sub": "1", "exp": now + 3600}), "bad_token"),
        "alg none with a good signature": (tokens.encode({"alg": "none"}, {"sub": "1"}, lambda text: b"x"), "bad_token"),
        "HS256 signed with the public key": (
            tokens.hmac_signed({"sub": "1", "exp": now + 3600}, keys.auth.public_pem), "bad_token"),
        "HS512 signed with the public key": (
            tokens.hmac_signed({"sub": "1", "exp": now + 3600}, keys.auth.public_pem, alg="HS512"), "bad_token"),
        "no signature": (f"{header}.{claims}.", "bad_token"),
        "two parts": (f"{header}.{claims}", "bad_token"),
        "another's claims": (f"{header}.{keys.auth.token(sub='2').split('.')[1]}.{signature}", "bad_token"),
        "something behind the signature": (good + "%21%21%21%21", "bad_token"),
        "exp is a text": (keys.auth.sign({"sub": "1", "exp": "never"}), "bad_token"),
        "claims are no object": (keys.auth.sign(b"[1]"), "bad_token"),
        "20000 bytes": ("a" * 20000, "bad_token"),
    }


BAD = ["empty", "garbage", "the word undefined", "expired", "not yet valid", "wrong key", "alg none",
       "alg none with a good signature", "HS256 signed with the public key", "HS512 signed with the public key",
       "no signature", "two parts", "another's claims", "something behind the signature", "exp is a text",
       "claims are no object", "20000 bytes"]


@pytest.mark.parametrize("what", BAD, ids=[b.replace(" ", "_") for b in BAD])
def test_a_bad_token_is_answered_401_with_a_json_body(f, keys, what):
    """Row: none, empty, garbage, expired, not yet valid, wrong key, alg none, HS256 signed with the public key."""
    token, code = bad_tokens(keys)[what]
    check_refused(upgrade(f, "?jwt=" + token), code)
    check_refused(upgrade(f, "?jwt=" + token, gateway=NOT_PUBLIC), code)


def test_every_bad_token_is_tried(keys):
    assert sorted(bad_tokens(keys)) == sorted(BAD)


@pytest.mark.parametrize("what", [b for b in BAD if b != "20000 bytes"],
                         ids=[b.replace(" ", "_") for b in BAD if b != "20000 bytes"])
def test_a_bad_token_is_refused_wherever_it_stands(f, keys, what):
    token, code = bad_tokens(keys)[what]
    token = token.replace("%21", "!")
    check_refused(upgrade(f, headers=[("Authorization", f"Bearer {token}")]), code)
    check_refused(upgrade(f, headers=[("Sec-WebSocket-Protocol", f"bearer.{token}")]), code)


def test_a_repeated_jwt_is_refused(f, token):
    """Row: repeated jwt=."""
    good = token()
    check_refused(upgrade(f, f"?jwt={good}&jwt={good}"), "bad_token")
    check_refused(upgrade(f, f"?jwt=&jwt={good}"), "bad_token")


def test_jwt_with_brackets_is_no_token(f, token):
    """Row: jwt[]= is no token."""
    for query in (f"?jwt[]={token()}", f"?jwt%5B%5D={token()}", f"?JWT={token()}", f"?xjwt={token()}"):
        check_refused(upgrade(f, query, gateway=NOT_PUBLIC), "bad_token")
        assert upgrade(f, query)[0] == 101


def test_no_token_is_accepted_for_public_bindings_only(f, access_api):
    """Row: with a public exchange configured, no token at all is accepted."""
    async def go():
        async with f.client() as c:
            await c.bind_ok("public", "anonymous.#")
            f.publish("public", "anonymous.1", {"a": 1})
            assert (await c.next())["msg"] == {"a": 1}
            for exchange, key in (("wf", "task.1"), ("wf.task", "ok.#"), ("wf.instance", "na.#"), ("wf.instance", "59.#"),
                                  ("warehouse", "dataset.a.1.ok")):
                await c.bind(exchange, key)
                assert await c.next_text() == f'{{"error":"Access denied {exchange}"}}'
    asyncio.run(go())
    assert access_api.requests == []


def test_no_token_is_refused_where_nothing_is_public(f):
    """Row: none."""
    check_refused(upgrade(f, gateway=NOT_PUBLIC), "bad_token")
    with pytest.raises(HandshakeRefused) as refused:
        asyncio.run(_connect_and_leave(f.client(gateway=NOT_PUBLIC)))
    assert refused.value.status == 401


async def _connect_and_leave(client):
    async with client as c:
        return await c.ask(bind={"ex": "wf.task", "key": "ok.#"})


@pytest.mark.parametrize("alg", ["RS256", "RS384", "RS512", "PS256"])
def test_only_the_algorithms_that_the_key_names_are_accepted(f, token, keys, alg):
    """Row: RS256/384/512, PS256 against one RSA key. One key of gateways[1] names four, the others' names RS256."""
    if not build_knows(alg, keys.auth.public_file, keys.directory):
        check_refused(upgrade(f, "?jwt=" + token(alg=alg), gateway=NOT_PUBLIC), "bad_token")
        pytest.skip(f"this libjwt cannot verify {alg}, so no key can name it")
    assert asyncio.run(_connect_and_leave(f.client(token(alg=alg), gateway=NOT_PUBLIC)))["ok"] is True
    answer = upgrade(f, "?jwt=" + token(alg=alg))
    if alg == "RS256":
        assert answer[0] == 101
    else:
        check_refused(answer, "bad_token")


@pytest.mark.parametrize("alg", ["PS384", "PS512"])
def test_an_algorithm_that_no_key_names_is_refused(f, token, alg):
    check_refused(upgrade(f, "?jwt=" + token(alg=alg), gateway=NOT_PUBLIC), "bad_token")


def test_exp_may_be_absent_unless_it_is_required(f, token):
    """Row: no exp."""
    forever = token(exp=None)

    async def go():
        async with f.client(forever) as c:
            await c.bind_ok("public", "j.#")
            f.publish("public", "j.1", {"a": 1})
            assert (await c.next())["msg"] == {"a": 1}
    asyncio.run(go())
    check_refused(upgrade(f, "?jwt=" + forever, gateway=STRICT), "bad_token")
    assert upgrade(f, "?jwt=" + token(), gateway=STRICT)[0] == 101


def test_without_sub_no_rule_that_needs_the_user_applies(fleet, token, access_api):
    """Row: no sub."""
    url = access_api.url
    exchanges = {**default_exchanges(url), "mine": {"access": [{"when": "of.#", "http": url + "/user/{user}/{key.1}"},
                                                              {"when": "is.#", "claim": "/sub", "is": "{user}"},
                                                              {"when": "all.#", "allow": True}]}}
    f = fleet(exchanges=exchanges)

    async def ask(user_token, *bindings):
        async with f.client(user_token) as c:
            return [(await c.ask(bind={"ex": ex, "key": key})).get("code", "ok") for ex, key in bindings]
    bindings = [("mine", "of.ok"), ("mine", "is.x"), ("mine", "all.x"), ("wf.task", "ok.#"), ("public", "j.#")]
    assert asyncio.run(ask(token(sub=None), *bindings)) == ["denied", "denied", "ok", "ok", "ok"]
    assert asyncio.run(ask(token(sub="7"), *bindings)) == ["ok"] * 5
    assert sorted(r.path for r in access_api.requests) == ["/event/checkaccess/instance/ok"] * 2 + ["/user/7/ok"]


def test_a_session_ends_with_its_token(f, token):
    """Row: expires while connected."""
    async def go():
        async with f.client(token(exp=2), gateway=STRICT) as c, f.client(token(), gateway=STRICT) as other:
            await c.bind_ok("public", "j.#")
            await other.bind_ok("public", "j.#")
            f.publish("public", "j.1", {"before": True})
            assert (await c.next())["msg"] == {"before": True}
            code, reason = await c.closed()
            assert code == 4401 and reason
            f.publish("public", "j.2", {"after": True})
            assert [m["msg"] for m in await other.collect(2)] == [{"before": True}, {"after": True}]
            assert [json.loads(m)["msg"] for m in c.all if '"msg"' in m] == [{"before": True}]
    asyncio.run(go())


def test_an_old_client_hears_nothing_unknown_before_its_token_ends(f, token):
    """Row: expires while connected. expires_in_s is for those who have sent a req."""
    async def go():
        async with f.client(token(exp=2), gateway=STRICT) as c:
            await c.bind("public", "j.#")
            assert (await c.closed())[0] == 4401
            assert c.all == []
    asyncio.run(go())


@pytest.mark.parametrize("way", ["header", "subprotocol", "query"])
def test_a_token_is_taken_from_header_query_or_subprotocol(f, token, way):
    """The original knew ?jwt= only."""
    client = f.client(token(), gateway=NOT_PUBLIC, **({} if way == "query" else {way: True}))
    assert asyncio.run(_connect_and_leave(client))["ok"] is True


def test_the_first_token_found_counts(f, keys, token):
    """DESIGN: header, then query, then subprotocol."""
    good, bad = token(), keys.other.token()
    header, other = ("Authorization", "Bearer "), ("Sec-WebSocket-Protocol", "bearer.")
    assert upgrade(f, f"?jwt={bad}", headers=[(header[0], header[1] + good)])[0] == 101
    assert upgrade(f, f"?jwt={good}", headers=[(other[0], other[1] + bad)])[0] == 101
    check_refused(upgrade(f, f"?jwt={good}", headers=[(header[0], header[1] + bad)]), "bad_token")
    check_refused(upgrade(f, f"?jwt={bad}", headers=[(other[0], other[1] + good)]), "bad_token")


def test_refused_upgrades_are_counted(f):
    before = f.gateway.metric("event_gateway_upgrades_refused_total")
    check_refused(upgrade(f, "?jwt=abc"), "bad_token")
    wait_for(lambda: f.gateway.metric("event_gateway_upgrades_refused_total") == before + 1, 5, "the refusal's count")
