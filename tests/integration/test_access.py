"""No event reaches a binding that has no valid grant, whatever the order of answers, disconnects and reloads."""
import asyncio
import random
import threading
import time

import pytest
from aiohttp import web

from support.access_api import BEHAVIOURS
from support.fleet import DELETE
from support.swarm import Swarm
from support.wait import wait_for
from support.ws_client import HandshakeRefused, connect



async def fence(f, client, exchange="public", key="fence"):
    """Everything that was published before has reached the client's gateway: events of one exchange come in order,
    and this one is bound by `client`. Returns the messages that came before it."""
    f.publish(exchange, key, {"fence": True})
    return (await client.until(lambda m: isinstance(m.get("msg"), dict) and m["msg"].get("fence")))[:-1]


async def eventually(condition, timeout=10, what="the condition"):
    deadline = asyncio.get_running_loop().time() + timeout
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited {timeout} s for {what}"
        await asyncio.sleep(0.02)


# --- the order of answers ----------------------------------------------------------------------------------------


def test_answers_late_and_in_any_order_grant_only_their_own_binding(fleet, token, access_api):
    """Forty bindings are checked at once; answers come in random order, some are no grants. Events of all keys flow
    all the time. None arrives for a key before its API has said ok, and none ever for the others."""
    f = fleet(access={"timeout_ms": 1500, "pending_max": 1000})
    rnd = random.Random(7)
    outcomes = ["ok", "deny", "html", "e403", "ok", "empty", "ok", "array", "redirect", "ok", "nocontent", "hang"]
    words = {f"w{n}x": outcomes[n % len(outcomes)] for n in range(40)}
    answered = {}

    def late(word, outcome, delay):
        async def answer(api, request):
            await asyncio.sleep(delay)
            answered[word] = time.monotonic()
            return await BEHAVIOURS[outcome](api, request)
        return answer

    for word, outcome in words.items():
        access_api.behave(word, late(word, outcome, rnd.uniform(0, 1.0)))
    stop = threading.Event()

    def publish():
        n = 0
        while not stop.is_set():
            for word in words:
                f.publish("wf", f"{word}.e", {"n": n})
            n += 1

    async def go():
        async with f.client(token()) as c:
            arrivals = []

            async def collect():
                while True:
                    frame = await c.next(60)
                    arrivals.append((time.monotonic(), frame["dinfo"]["routingKey"].split(".")[0], frame["msg"]["n"]))
            collector = asyncio.ensure_future(collect())
            publisher = threading.Thread(target=publish)
            publisher.start()
            try:
                answers = await asyncio.gather(*(c.ask(bind={"ex": "wf", "key": f"{w}.#"}) for w in words))
                granted = {w for w, a in zip(words, answers) if a.get("ok")}
                assert granted == {w for w, outcome in words.items() if outcome == "ok"}
                for word, answer in zip(words, answers):
                    expected = {"ok": None, "deny": "denied", "html": "denied", "array": "denied", "e403": "denied",
                                "hang": "access_timeout"}.get(words[word], "any")
                    if expected == "any":
                        assert answer["code"] in ("denied", "access_error"), (word, words[word], answer)
                    else:
                        assert answer.get("code") == expected, (word, words[word], answer)
                await eventually(lambda: granted <= {word for _, word, _ in arrivals}, 20, "events of all granted keys")
            finally:
                stop.set()
                await asyncio.to_thread(publisher.join)
                collector.cancel()
            return arrivals, granted

    arrivals, granted = asyncio.run(go())
    assert {word for _, word, _ in arrivals} == granted
    early = [(word, at - answered[word]) for at, word, _ in arrivals if at < answered[word]]
    assert not early
    for word in granted:
        numbers = [n for _, w, n in arrivals if w == word]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), "live means: without holes"


def test_who_leaves_during_its_check_harms_nobody(fleet, token, access_api):
    f = fleet()
    access_api.behave("gate", "gate")

    async def go():
        async with f.client(token(sub="stays")) as stays:
            await stays.bind_ok("public", "fence")
            # Thirty of one user wait for the same check, and ten for checks of their own.
            leaving = [await f.client(token(sub="leaves" if n < 30 else f"leaves{n}")) for n in range(40)]
            for n, c in enumerate(leaving):
                await c.bind("wf", "gate.#" if n < 30 else f"gate.{n}")
            access_api.behave("gate", "gate")
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings_pending", lambda v: v == 40)
            for n, c in enumerate(leaving):
                if n % 3 == 0:
                    c.socket.transport.abort()  # RST
                elif n % 3 == 1:
                    await c.close()
                else:  # a FIN without a close frame
                    c.socket.transport.close()
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_sessions", lambda v: v == 1)
            assert f.gateway.metric("event_gateway_bindings_pending") == 0
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_access_pending", lambda v: v == 0)
            access_api.open_gate()
            f.publish("wf", "gate.1", {"n": 1})
            assert await fence(f, stays) == []
            assert f.gateway.metric("event_gateway_bindings") == 1
            # And whoever comes next is served.
            await stays.bind_ok("wf", "gate.#")
            f.publish("wf", "gate.1", {"n": 2})
            assert (await stays.next())["msg"] == {"n": 2}

    asyncio.run(go())


def test_of_two_that_share_a_check_one_may_leave(fleet, token, access_api):
    f = fleet()

    async def go():
        async with f.client(token()) as stays:
            leaves = await f.client(token())
            await leaves.bind("wf", "gate.#")
            await eventually(lambda: access_api.count == 1)
            answer = asyncio.ensure_future(stays.ask(bind={"ex": "wf", "key": "gate.#"}))
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings_pending", lambda v: v == 2)
            leaves.socket.transport.abort()
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings_pending", lambda v: v == 1)
            access_api.open_gate()
            assert (await answer)["ok"] is True
            assert access_api.count == 1

    asyncio.run(go())


def test_a_binding_taken_back_during_its_check_stays_gone(fleet, token, access_api):
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "fence")
            await c.bind("wf", "gate.#")
            await eventually(lambda: access_api.count == 1)
            assert (await c.ask(unbind={"ex": "wf", "key": "gate.#"}))["ok"] is True
            access_api.open_gate()
            await c.bind_ok("wf", "ok.#")  # a later check has been answered
            f.publish("wf", "gate.1", {"n": 1})
            f.publish("wf", "ok.1", {"n": 2})
            assert (await c.next())["msg"] == {"n": 2}
            assert f.gateway.metric("event_gateway_bindings") == 2

    asyncio.run(go())


# --- reloads -------------------------------------------------------------------------------------------------------


def reloaded(f, changes):
    before = f.gateway.metric("event_gateway_reloads_total")
    f.gateway.reload(changes)
    f.gateway.await_metric("event_gateway_reloads_total", lambda v: v == before + 1)


@pytest.mark.parametrize("rules", [[], [{"allow": False}], [{"when": "other.#", "allow": True}],
                                   [{"claim": "/gids", "has": "{key.0}"}]], ids=["none", "false", "when", "claim"])
def test_an_ok_of_old_rules_grants_nothing_under_new_ones(fleet, token, access_api, rules):
    f = fleet()

    async def go():
        async with f.client(token()) as c, f.client(token()) as old:
            await c.bind_ok("public", "fence")
            await old.bind_ok("public", "fence")
            asked = asyncio.ensure_future(c.ask(bind={"ex": "wf", "key": "gate.#"}))
            await eventually(lambda: access_api.count == 1)
            await asyncio.to_thread(reloaded, f, {"exchanges": {"wf": {"access": rules}}})
            access_api.open_gate()
            assert await asked == {"req": 2, "error": "Access denied wf", "code": "denied"}
            f.publish("wf", "gate.1", {"n": 1})
            assert await fence(f, c) == []
            assert f.gateway.metric("event_gateway_bindings") == 2
            # The stale grant may be in the cache, but not under the new rules.
            assert (await old.ask(bind={"ex": "wf", "key": "gate.#"}))["code"] == "denied"

    asyncio.run(go())


def test_a_grant_of_old_rules_that_waits_for_redis_is_judged_again(fleet, token, access_api, redis, proxy):
    """Granted, but not live yet because Redis is away: new rules take it back before any event comes."""
    way = proxy(redis.port)
    f = fleet(redis_url=f"redis://127.0.0.1:{way.port}/0")

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "fence")
            await asyncio.to_thread(way.set, "refuse")
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_redis_up", lambda v: v == 0)
            taken = asyncio.ensure_future(c.ask(30, bind={"ex": "wf", "key": "task.1"}))
            kept = asyncio.ensure_future(c.ask(30, bind={"ex": "wf", "key": "keep.1"}))
            granted = 'event_gateway_access_verdicts_total{verdict="granted"}'
            await asyncio.to_thread(f.gateway.await_metric, granted, lambda v: v == 3)
            assert not taken.done() and not kept.done()
            await asyncio.to_thread(reloaded, f, {"exchanges": {"wf": {"access": [{"when": "keep.#", "allow": True}]}}})
            assert (await taken)["code"] == "denied"
            await asyncio.to_thread(way.set, "pass")
            assert (await kept)["ok"] is True
            f.publish("wf", "task.1", {"n": 1})
            f.publish("wf", "keep.1", {"n": 2})
            assert (await c.next(30))["msg"] == {"n": 2}

    asyncio.run(go())


def test_a_denial_of_old_rules_does_not_count_under_new_ones(fleet, token, access_api):
    f = fleet()

    async def denied_at_the_gate(api, request):
        await api.gate_opened.wait()
        return web.json_response({"status": "denied"})

    async def go():
        async with f.client(token()) as c:
            access_api.behave("gate", denied_at_the_gate)
            asked = asyncio.ensure_future(c.ask(bind={"ex": "wf", "key": "gate.#"}))
            await eventually(lambda: access_api.count == 1)
            await asyncio.to_thread(reloaded, f, {"exchanges": {"wf": {"access": [{"allow": True}]}}})
            access_api.open_gate()
            assert (await asked)["ok"] is True

    asyncio.run(go())


def test_an_exchange_removed_during_the_check_is_unknown(fleet, token, access_api):
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "fence")
            asked = asyncio.ensure_future(c.ask(bind={"ex": "wf", "key": "gate.#"}))
            await eventually(lambda: access_api.count == 1)
            await asyncio.to_thread(reloaded, f, {"exchanges": {"wf": DELETE}})
            access_api.open_gate()
            assert (await asked)["code"] == "unknown_exchange"
            f.publish("wf", "gate.1", {"n": 1})
            assert await fence(f, c) == []

    asyncio.run(go())


def test_new_rules_end_live_bindings_that_they_do_not_give(fleet, token):
    f = fleet()

    async def go():
        async with f.client(token(sub="1")) as modern, f.client(token(sub="2")) as old:
            await modern.bind_ok("public", "fence")
            await modern.bind_ok("wf", "task.1.#")
            await modern.bind_ok("wf", "keep.#")
            await old.bind("public", "fence")
            await old.bind("wf", "task.1.#")
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings", lambda v: v == 5)
            await asyncio.to_thread(reloaded, f, {"exchanges": {"wf": {"access": [{"when": "keep.#", "allow": True}]}}})
            assert await modern.next() == {"unbound": {"ex": "wf", "key": "task.1.#"}, "code": "revoked"}
            assert await old.next() == {"error": "Access denied wf"}
            f.publish("wf", "task.1.x", {"n": 1})
            f.publish("wf", "keep.x", {"n": 2})
            assert [m["msg"] for m in [await modern.next()]] == [{"n": 2}]
            assert await fence(f, modern) == []
            assert await old.until(lambda m: "msg" in m) and len(old.all) == 2
            assert f.gateway.metric("event_gateway_bindings") == 3

    asyncio.run(go())


def test_new_rules_with_another_api_are_asked_for_live_bindings(fleet, token, access_api):
    """A reload changes the URL; the API behind it knows some of the bindings only."""
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("wf", "known.#")
            await c.bind_ok("wf", "foreign.#")
            access_api.behave("foreign", "deny")
            url = f"{access_api.url}/v2/check/{{key}}"
            await asyncio.to_thread(reloaded, f, {"exchanges": {"wf": {"access": [{"http": url}]}}})
            assert await c.next() == {"unbound": {"ex": "wf", "key": "foreign.#"}, "code": "revoked"}
            assert sorted(r.path for r in access_api.requests[2:]) == ["/v2/check/foreign.%23", "/v2/check/known.%23"]
            f.publish("wf", "foreign.1", {"n": 1})
            f.publish("wf", "known.1", {"n": 2})
            assert (await c.next())["msg"] == {"n": 2}

    asyncio.run(go())


def test_a_reload_that_leaves_the_rules_alone_asks_nobody(fleet, token, access_api):
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("wf", "task.#")
            await asyncio.to_thread(reloaded, f, {"gateway": {"session_bindings_max": 7},
                                                  "exchanges": {"more": {"access": "public"}}})
            # The limit is in force, the new exchange is served, and the old binding is as it was.
            f.channel().exchange_declare("more", "topic", durable=True)
            await c.bind_ok("more", "#")
            f.publish("wf", "task.1", {"n": 1})
            assert (await c.next())["msg"] == {"n": 1}
            assert access_api.count == 1

    asyncio.run(go())


def test_an_exchange_that_is_taken_away_ends_its_bindings_only(fleet, token):
    f = fleet()

    async def go():
        async with f.client(token()) as modern, f.client(token()) as old:
            await modern.bind_ok("wf", "task.#")
            await modern.bind_ok("public", "fence")
            await old.bind("wf", "task.#")
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_bindings", lambda v: v == 3)
            await asyncio.to_thread(reloaded, f, {"exchanges": {"wf": DELETE}})
            assert await modern.next() == {"unbound": {"ex": "wf", "key": "task.#"}, "code": "revoked"}
            answer = await old.next()
            assert set(answer) == {"error"}
            assert (await modern.ask(bind={"ex": "wf", "key": "task.#"}))["code"] == "unknown_exchange"
            f.publish("wf", "task.1", {"n": 1})
            assert await fence(f, modern) == []
            # It may come back.
            await asyncio.to_thread(reloaded, f, {"exchanges": {"wf": {"access": [{"allow": True}]}}})
            await modern.bind_ok("wf", "task.#")
            f.publish("wf", "task.1", {"n": 2})
            assert (await modern.next())["msg"] == {"n": 2}

    asyncio.run(go())


def test_a_key_that_is_taken_away_ends_its_sessions(fleet, keys):
    both = [{"alg": "RS256", "file": str(keys.auth.public_file), "kid": "auth"},
            {"alg": "RS256", "file": str(keys.other.public_file), "kid": "other"}]
    f = fleet(jwt={"keys": both})
    by_auth = keys.auth.token(header={"kid": "auth"})
    by_other = keys.other.token(header={"kid": "other"})

    async def go():
        async with f.client(by_auth) as goes, f.client(by_other) as stays, f.client(None) as anonymous:
            for c in (goes, stays, anonymous):
                await c.bind_ok("public", "fence")
            await asyncio.to_thread(reloaded, f, {"jwt": {"keys": both[1:]}})
            code, reason = await goes.closed()
            assert code == 4401 and reason
            assert await fence(f, stays) == []
            assert await anonymous.until(lambda m: "msg" in m)
            with pytest.raises(HandshakeRefused) as refused:
                await connect(f.ws, by_auth)
            assert refused.value.status == 401
            async with f.client(by_other) as c:
                await c.ping()
            assert f.gateway.metric('event_gateway_sessions_closed_total{reason="key_removed"}') == 1

    asyncio.run(go())


def cached_answers(f, redis):
    """The remaining times, in ms, of the answers in the shared cache."""
    with redis.client() as r:
        return [r.pttl(k) for k in r.scan_iter(f"{f.prefix}:access:*") if not k.endswith(b":gen")]


# --- one check for many ----------------------------------------------------------------------------------------------


def test_a_thousand_sessions_that_ask_for_the_same_cost_one_request(fleet, token, access_api):
    f = fleet(gateways=2)
    with Swarm(f.ws, token(sub="7"), 1000) as swarm:
        asked = [(s, s.ask(bind={"ex": "wf", "key": "gate.#"})) for s in swarm.sessions]
        f.gateway.await_metric("event_gateway_bindings_pending", lambda v: v == 1000, 60)
        assert access_api.count == 1
        access_api.open_gate()
        assert all(a.get("ok") is True for a in swarm.answers(asked))
        assert access_api.count == 1
        f.publish("wf", "gate.1", {"n": 1})
        swarm.pump(lambda: swarm.received == 1000)
        assert {s.events[0]["msg"]["n"] for s in swarm.sessions} == {1}
        metrics = f.gateway.metrics()
        assert metrics['event_gateway_access_checks_total{source="http"}'] == 1
        assert metrics['event_gateway_access_checks_total{source="joined"}'] == 999

        # Later ones, also with a newer token of the same user, also at another gateway: none.
        newer = swarm.add(f.ws, token(sub="7", exp=7200, nbf=1), 1)
        swarm.bind_all("wf", "gate.#", newer)
        elsewhere = swarm.add(f.gateways[1].ws, token(sub="7", exp=1800), 50)
        swarm.bind_all("wf", "gate.#", elsewhere)
        assert access_api.count == 1
        second = f.gateways[1].metrics()
        assert second['event_gateway_access_checks_total{source="redis"}'] == 1
        assert second.get('event_gateway_access_checks_total{source="http"}', 0) == 0
        f.publish("wf", "gate.2", {"n": 2})
        swarm.pump(lambda: swarm.received == 1000 + 1051)

        # Other claims are another question, and so is another pattern.
        swarm.bind_all("wf", "gate.#", swarm.add(f.ws, token(sub="8"), 1))
        assert access_api.count == 2
        swarm.bind_all("wf", "gate.#", swarm.add(f.ws, token(sub="7", gids=[1]), 1))
        assert access_api.count == 3
        swarm.bind_all("wf", "gate.*", newer)
        assert access_api.count == 4


def test_refusals_are_shared_too_but_not_for_long(fleet, token, access_api, redis):
    f = fleet(gateways=2, access={"refuse_ttl_s": 2})

    async def go():
        async with f.client(token()) as a, f.client(token(), gateway=1) as b:
            for c in (a, b, a, b):
                assert (await c.ask(bind={"ex": "wf", "key": "deny.#"}))["code"] == "denied"
                # The client is answered before Redis has stored the answer.
                await asyncio.to_thread(wait_for, lambda: cached_answers(f, redis), 5, "the cached answer")
            assert access_api.count == 1
            access_api.behave("deny", "ok")
            begun = time.monotonic()
            while not (await a.ask(bind={"ex": "wf", "key": "deny.#"})).get("ok"):
                assert time.monotonic() - begun < 5
                await asyncio.sleep(0.05)
            assert access_api.count == 2

    asyncio.run(go())


def test_without_redis_every_gateway_asks_for_itself(fleet, token, access_api, redis, proxy):
    """The cache is a help, not a need: an access check with Redis away is answered by the API."""
    way = proxy(redis.port)
    f = fleet(redis_url=f"redis://127.0.0.1:{way.port}/0")

    async def go():
        async with f.client(token()) as c:
            await asyncio.to_thread(way.set, "refuse")
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_redis_up", lambda v: v == 0)
            assert (await c.ask(bind={"ex": "wf", "key": "deny.#"}))["code"] == "denied"
            asked = asyncio.ensure_future(c.ask(30, bind={"ex": "wf", "key": "ok.#"}))
            await eventually(lambda: access_api.count == 2)
            await asyncio.to_thread(way.set, "pass")
            assert (await asked)["ok"] is True

    asyncio.run(go())


# --- how long a grant holds ---------------------------------------------------------------------------------------------


async def ask_until_the_api_is_asked(f, c, access_api, exchange, key, timeout=8):
    """Bind and take back until that costs a request; returns the answer and the seconds that it took."""
    before, begun = access_api.count, time.monotonic()
    while True:
        answer = await c.ask(bind={"ex": exchange, "key": key})
        taken = time.monotonic() - begun
        if access_api.count > before:
            return answer, taken
        assert answer.get("ok") is True
        assert taken < timeout, "the cached grant outlives its TTL"
        assert (await c.ask(unbind={"ex": exchange, "key": key}))["ok"] is True
        await asyncio.sleep(0.05)


def test_a_cached_grant_ends_with_its_ttl(fleet, token, access_api):
    f = fleet(gateways=2, access={"grant_ttl_s": 2}, gateway={"session_requests_per_s": 0})

    async def go():
        async with f.client(token()) as first, f.client(token(), gateway=1) as second:
            await first.bind_ok("wf", "task.#")
            access_api.everything("deny")
            # Neither gateway's memory nor Redis keeps it longer; a binding that is live stays.
            results = await asyncio.gather(
                ask_until_the_api_is_asked(f, second, access_api, "wf", "task.#"),
                ask_until_the_api_is_asked(f, first, access_api, "wf", "task.#"))
            for answer, taken in results:
                assert 1 < taken < 5
            # Whoever asked first after the end was refused; the other may have seen that refusal.
            assert [a.get("code") for a, _ in results] == ["denied", "denied"]

    asyncio.run(go())


def test_a_cached_grant_ends_with_the_token_that_it_was_given_for(fleet, token, access_api, redis):
    f = fleet(gateways=2, jwt={"leeway_s": 0}, access={"grant_ttl_s": 300}, gateway={"session_requests_per_s": 0})

    async def go():
        # Whole seconds: exp is cut to one.
        end = int(time.time()) + 4
        short, long = token(sub="7", exp=end - time.time()), token(sub="7", exp=3600)
        async with f.client(short) as first, f.client(long) as same, f.client(long, gateway=1) as other:
            await first.bind_ok("wf", "task.#")
            ttls = await asyncio.to_thread(wait_for, lambda: cached_answers(f, redis), 5, "the cached answer")
            assert ttls and all(0 < ttl <= 4000 for ttl in ttls), ttls
            access_api.everything("deny")
            for answer, _ in await asyncio.gather(
                    ask_until_the_api_is_asked(f, same, access_api, "wf", "task.#"),
                    ask_until_the_api_is_asked(f, other, access_api, "wf", "task.#")):
                assert answer.get("code") == "denied"
            assert time.time() <= end + 3
            code, _ = await first.closed()
            assert code == 4401

    asyncio.run(go())


def test_a_live_binding_ends_with_its_token(fleet, token):
    f = fleet(jwt={"leeway_s": 1})

    async def go():
        end = int(time.time()) + 3
        async with f.client(token(exp=end - time.time())) as dies, f.client(token()) as lives:
            await dies.bind_ok("public", "#")
            await lives.bind_ok("public", "#")
            f.publish("public", "a", {"n": 1})
            assert (await dies.next())["msg"] == {"n": 1}
            code, reason = await dies.closed()
            # exp + leeway, and what the looking around costs.
            assert end + 1 - 0.1 <= time.time() <= end + 1 + 2.5
            assert code == 4401 and "expired" in reason
            f.publish("public", "a", {"n": 2})
            await lives.until(lambda m: m["msg"] == {"n": 2})
            assert not any('"n":2' in m for m in dies.all)
            assert f.gateway.metric("event_gateway_bindings") == 1
            assert f.gateway.metric('event_gateway_sessions_closed_total{reason="expired"}') == 1

    asyncio.run(go())


def test_a_token_may_be_used_within_the_leeway_and_not_after_it(fleet, token):
    f = fleet(jwt={"leeway_s": 60})

    async def go():
        async with f.client(token(exp=-30)) as c:
            await c.bind_ok("wf", "task.#")
        with pytest.raises(HandshakeRefused) as refused:
            await connect(f.ws, token(exp=-62))
        assert refused.value.status == 401

    asyncio.run(go())


def test_the_end_is_announced_to_clients_that_know_req(fleet, token):
    f = fleet(gateway={"ping_interval_s": 1})

    async def go():
        async with f.client(token(exp=33)) as modern, f.client(token(exp=33)) as old, \
                f.client(token(exp=3600)) as early, f.client(token(exp=None)) as endless:
            for c in (modern, early, endless):
                await c.bind_ok("public", "fence")
            await old.bind("public", "fence")
            message = await modern.next()
            assert set(message) == {"expires_in_s"}
            # The token's life with the leeway of 30 s is 63 s: the warning comes at 60.
            assert 50 <= message["expires_in_s"] <= 60
            f.publish("public", "fence", {"n": 1})
            for c in (modern, old, early, endless):
                assert (await c.next())["msg"] == {"n": 1}

    asyncio.run(go())


# --- trouble with the API ---------------------------------------------------------------------------------------------


def test_an_api_that_does_not_answer_is_a_timeout_for_that_binding(fleet, token, access_api):
    f = fleet(access={"timeout_ms": 700})

    async def go():
        async with f.client(token()) as c, f.client(token(sub="old")) as old:
            begun = time.monotonic()
            await old.bind("wf", "hang.old")
            asked = asyncio.ensure_future(c.ask(bind={"ex": "wf", "key": "hang.#"}))
            await c.bind_ok("wf", "ok.#")  # others go on
            assert time.monotonic() - begun < 0.7
            answer = await asked
            assert 0.6 <= time.monotonic() - begun < 4
            assert answer["code"] == "access_timeout" and "wf" in answer["error"]
            assert set(await old.next()) == {"error"}
            # Nothing of it is remembered.
            access_api.behave("hang", "ok")
            await c.bind_ok("wf", "hang.#")
            assert f.gateway.metric('event_gateway_errors_total{code="access_timeout"}') == 2

    asyncio.run(go())


def test_an_api_that_keeps_failing_is_left_alone_for_a_while(fleet, token, access_api):
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            for n, word in enumerate(["e500", "e503", "e500", "e503", "e500"]):
                answer = await c.ask(bind={"ex": "wf", "key": f"{word}.{n}"})
                assert answer["code"] == "denied"
            assert access_api.count == 5
            assert f.gateway.metric("event_gateway_access_breaker_open") == 1
            opened = time.monotonic()
            # At once, and without a request.
            answer = await c.ask(bind={"ex": "wf", "key": "ok.#"})
            assert answer["code"] == "access_error"
            assert access_api.count == 5
            # Rules that ask nobody do not care.
            await c.bind_ok("wf.instance", "na.#")
            # Then one check tries the API, and all is well.
            while not (await c.ask(bind={"ex": "wf", "key": "ok.#"})).get("ok"):
                assert time.monotonic() - opened < 8
                await asyncio.sleep(0.1)
            assert time.monotonic() - opened >= 1.5
            assert access_api.count == 6
            assert f.gateway.metric("event_gateway_access_breaker_open") == 0

    asyncio.run(go())


def test_refusals_do_not_open_the_breaker(fleet, token, access_api):
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            for n in range(12):
                word = ("deny", "e401json", "e403", "e404")[n % 4]
                assert (await c.ask(bind={"ex": "wf", "key": f"{word}.{n}"}))["code"] == "denied"
            await c.bind_ok("wf", "ok.#")
            assert access_api.count == 13

    asyncio.run(go())


# --- the rules ------------------------------------------------------------------------------------------------------------


RULES = [
    # exchange, key, claims, granted or code, the path that the API is asked for (None: it is not)
    ("wf", "ok.5f.#", {}, True, "/event/checkaccess/ok.5f.%23"),
    ("wf", "deny.5f.#", {}, "denied", "/event/checkaccess/deny.5f.%23"),
    ("wf", "#", {}, True, "/event/checkaccess/%23"),
    ("wf", "*.x", {}, True, "/event/checkaccess/%2A.x"),
    ("wf", "a b/c?d=e&f%2e+g;h", {}, True, "/event/checkaccess/a%20b%2Fc%3Fd%3De%26f%252e%2Bg%3Bh"),
    ("wf", "ü€", {}, True, "/event/checkaccess/%C3%BC%E2%82%AC"),
    ("wf", "..", {}, "denied", None),
    ("wf", ".", {}, "denied", None),
    ("wf", "", {}, "denied", None),
    ("wf.task", "ok1.t", {}, True, "/event/checkaccess/instance/ok1"),
    ("wf.task", "ok1.#", {}, True, "/event/checkaccess/instance/ok1"),
    ("wf.task", "ok1", {}, True, "/event/checkaccess/instance/ok1"),
    ("wf.task", "deny1.t", {}, "denied", "/event/checkaccess/instance/deny1"),
    ("wf.task", "ok/../x?y", {}, True, "/event/checkaccess/instance/ok%2F"),
    ("wf.task", "ok2/x?y.t", {}, True, "/event/checkaccess/instance/ok2%2Fx%3Fy"),
    ("wf.task", "#", {}, "denied", None),
    ("wf.task", "*.t", {}, "denied", None),
    ("wf.task", "#.ok1", {}, "denied", None),
    ("wf.task", ".ok1", {}, "denied", None),
    ("wf.instance", "na", {}, True, None),
    ("wf.instance", "na.x.#", {}, True, None),
    ("wf.instance", "na.x", {"gids": [5]}, True, None),
    ("wf.instance", "59.#", {"gids": [59]}, True, None),
    ("wf.instance", "59.x", {"gids": ["59"]}, True, None),
    ("wf.instance", "59", {"gids": [1, 59]}, True, None),
    ("wf.instance", "59abc.x", {"gids": [59]}, "denied", None),
    ("wf.instance", "059.x", {"gids": [59]}, "denied", None),
    ("wf.instance", "60.x", {"gids": [59]}, "denied", None),
    ("wf.instance", "5.x", {"gids": [59]}, "denied", None),
    ("wf.instance", "59.x", {"gids": [59.0]}, "denied", None),
    ("wf.instance", "59.x", {"gids": 59}, "denied", None),
    ("wf.instance", "59.x", {"gids": "59"}, "denied", None),
    ("wf.instance", "59.x", {"gids": {"59": 59}}, "denied", None),
    ("wf.instance", "59.x", {}, "denied", None),
    ("wf.instance", "true.x", {"gids": [True]}, "denied", None),
    ("wf.instance", "#", {"gids": ["#"]}, "denied", None),
    ("wf.instance", "*.x", {"gids": ["*"]}, "denied", None),
    ("wf.instance", "*", {"gids": [59]}, "denied", None),
    ("warehouse", "dataset.update.me.ok3.d1", {}, True, "/event/checkaccess/project/ok3"),
    ("warehouse", "dataset.*.*.ok3.#", {}, True, "/event/checkaccess/project/ok3"),
    ("warehouse", "dataset.update.me.ok3", {}, True, "/event/checkaccess/project/ok3"),
    ("warehouse", "dataset.update.me.deny3.d1", {}, "denied", "/event/checkaccess/project/deny3"),
    ("warehouse", "dataset.update.me.*.d1", {}, "denied", None),
    ("warehouse", "dataset.update.me.#", {}, "denied", None),
    ("warehouse", "dataset.update.me", {}, "denied", None),
    ("warehouse", "dataset.#", {}, "denied", None),
    ("warehouse", "*.update.me.ok3.d1", {}, "denied", None),
    ("warehouse", "other.update.me.ok3.d1", {}, "denied", None),
    ("warehouse", "#", {}, "denied", None),
    ("public", "#", {}, True, None),
    ("public", "anything.*", {}, True, None),
    ("mine", "user.7.#", {}, True, None),
    ("mine", "user.8.#", {}, "denied", None),
    ("mine", "open.x", {}, True, None),
    ("mine", "closed.x", {}, "denied", None),
    ("mine", "closed.key", {}, "denied", None),
    ("mine", "group.admins", {"groups": ["admins"]}, True, None),
    ("mine", "group.users", {"groups": ["admins"]}, "denied", None),
    ("mine", "level.x", {"scopes": {"a/b": [1, "gold"]}}, True, None),
    ("mine", "level.x", {"scopes": {"a/b": [1, "silver"]}}, "denied", None),
    ("mine", "fifty", {"n": 50}, True, None),
    ("mine", "fifty", {"n": "50"}, True, None),
    ("mine", "fifty", {"n": 51}, "denied", None),
    ("mine", "http.x", {}, True, "/who/7/at/mine?key=http.x"),
    ("mine", "nosub.x", {}, True, "/nosub/7"),
    ("mine", "nosub.x", {"sub": None}, True, None),
    ("mine", "user.7", {"sub": None}, "denied", None),
    ("nobody", "#", {}, "denied", None),
    ("absent", "#", {}, "unknown_exchange", None),
]


@pytest.fixture(scope="module")
def rules_fleet(module_fleet, _access_api):
    from support.fleet import default_exchanges
    url = _access_api.url
    return module_fleet(ingests=0, access={"refuse_ttl_s": 0, "grant_ttl_s": 0}, exchanges={
        **default_exchanges(url),
        "mine": {"access": [
            {"when": "user.*.#", "claim": "/sub", "is": "{key.1}"},
            {"when": "closed.#", "allow": False},
            {"when": "open.#", "allow": True},
            {"when": "closed.key", "allow": True},  # too late: the first that applies decides
            {"when": "group.*", "claim": "/groups", "has": "{key.1}"},
            {"when": "level.*", "claim": "/scopes/a~1b/1", "is": "gold"},
            {"when": "fifty", "claim": "/n", "is": 50},
            {"when": "http.#", "http": url + "/who/{user}/at/{ex}?key={key}"},
            {"when": "nosub.#", "http": url + "/nosub/{user}"},
            {"when": "nosub.#", "allow": True},
        ]},
        "nobody": {"access": []},
    })


@pytest.mark.parametrize("exchange,key,claims,expected,path", RULES,
                         ids=[f"{n}-{r[0]}-{r[1]}" for n, r in enumerate(RULES)])
def test_rules(rules_fleet, token, access_api, exchange, key, claims, expected, path):
    async def go():
        async with rules_fleet.client(token(**{"sub": "7", **claims})) as c:
            return await c.ask(bind={"ex": exchange, "key": key})

    answer = asyncio.run(go())
    if expected is True:
        assert answer.get("ok") is True, answer
    else:
        assert answer.get("code") == expected, answer
        if expected == "denied":
            assert answer["error"] == f"Access denied {exchange}"
    assert [r.path for r in access_api.requests] == ([path] if path else [])
    for request in access_api.requests:
        assert request.headers["Authorization"].startswith("Bearer ey")


def test_without_a_token_only_public_bindings_succeed(rules_fleet, access_api):
    async def go():
        async with rules_fleet.client(None) as c:
            await c.bind_ok("public", "#")
            for exchange, key in (("wf", "ok.#"), ("wf.instance", "na.#"), ("mine", "open.x"), ("nobody", "#")):
                answer = await c.ask(bind={"ex": exchange, "key": key})
                assert answer["code"] == "denied", (exchange, key, answer)

    asyncio.run(go())
    assert access_api.count == 0


def test_the_api_is_asked_with_the_clients_own_token(rules_fleet, token, access_api):
    jwt = token(sub="9", secret="s")

    async def go():
        async with rules_fleet.client(jwt, header=True) as c:
            await c.bind_ok("wf", "ok.#")

    asyncio.run(go())
    request, = access_api.requests
    assert request.method == "GET"
    assert request.headers["Authorization"] == f"Bearer {jwt}"
    assert request.headers["Accept"] == "application/json"
    assert jwt not in rules_fleet.gateway.log()


def test_a_live_binding_keeps_its_grant_while_the_new_rule_cannot_be_asked(fleet, token, access_api):
    f = fleet()

    def rule(version):
        return {"exchanges": {"wf": {"access": [
            {"http": access_api.url + f"/event/checkaccess/{{key}}?v={version}"}]}}}

    def asked(version):
        return sum(f"v={version}" in r.path for r in access_api.requests)

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("wf", "mine.#")
            access_api.behave("mine", "reset")  # the API is broken when the rule changes
            f.gateway.reload(rule(2))
            await asyncio.to_thread(wait_for, lambda: asked(2) >= 2, 20, "the check to be tried again")
            f.publish("wf", "mine.1", {"n": 1})
            assert (await c.next())["msg"] == {"n": 1}
            access_api.behave("mine", "deny")
            assert await c.next(timeout=20) == {"unbound": {"ex": "wf", "key": "mine.#"}, "code": "revoked"}

    asyncio.run(go())
