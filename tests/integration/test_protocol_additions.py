"""What clients get that ask with `req`: answers, codes, unbind, ping, positions."""
import asyncio
import json
import re

import pytest

POSITION = re.compile(r"public:0:[0-9a-z]+:\d+-\d+")


@pytest.fixture(scope="module")
def f(module_fleet):
    return module_fleet(gateway={"session_requests_per_s": 0})


def talk(f, token, conversation):
    """Run `conversation(client)` with a client that has a token."""
    async def go():
        async with f.client(token()) as c:
            return await conversation(c)
    return asyncio.run(go())


async def known_position(c):
    """Wait until the gateway knows a position of the exchange `public`: after the owner's first tick."""
    await c.bind_ok("public", "position.known")
    for _ in range(200):
        answer = await c.ping()
        if answer["pos"].get("public:0"):
            return answer["pos"]["public:0"]
        await asyncio.sleep(0.05)
    raise AssertionError("no position within 10 s")


# --- bind and unbind ------------------------------------------------------------------------------------------------


def test_a_bind_is_answered_when_it_is_live(f, token):
    async def go(c):
        await known_position(c)
        answer = await c.ask(bind={"ex": "public", "key": "a.#"}, req=7)
        assert set(answer) == {"req", "ok", "pos"} and answer["req"] == 7 and answer["ok"] is True
        assert POSITION.fullmatch(answer["pos"])
        f.publish("public", "a.1", {"n": 1})
        event = await c.next()
        assert POSITION.fullmatch(event["id"])
        # The event is behind the position: the same epoch, a greater stream id.
        place = answer["pos"].rsplit(":", 1)
        id_of = event["id"].rsplit(":", 1)
        assert place[0] == id_of[0]
        assert tuple(map(int, place[1].split("-"))) < tuple(map(int, id_of[1].split("-")))
    talk(f, token, go)


def test_a_ping_tells_a_position_that_covers_what_was_sent(f, token):
    async def go(c):
        await c.bind_ok("public", "a.#")
        f.publish("public", "a.1", {"n": 1})
        event = await c.next()
        answer = await c.ask(ping=1, req="x")
        assert set(answer) == {"req", "ok", "pos"} and answer["req"] == "x" and answer["ok"] is True
        assert list(answer["pos"]) == ["public:0"]
        epoch, place = answer["pos"]["public:0"].split(":")
        assert event["id"].split(":")[2] == epoch
        assert tuple(map(int, event["id"].rsplit(":", 1)[1].split("-"))) <= tuple(map(int, place.split("-")))
        # Ticks move it on, though this session gets no event.
        f.publish("public", "nobody.binds.this", {"n": 2})

        async def moved():
            while (await c.ping())["pos"]["public:0"] == answer["pos"]["public:0"]:
                await asyncio.sleep(0.05)
        await asyncio.wait_for(moved(), 10)
        assert c.messages.empty()
    talk(f, token, go)


def test_a_ping_without_bindings_has_no_positions(f, token):
    async def go(c):
        assert await c.ask(ping=1, req=1) == {"req": 1, "ok": True, "pos": {}}
    talk(f, token, go)


def test_a_ping_of_several_exchanges_has_a_position_for_each(f, token):
    async def go(c):
        await c.bind_ok("public", "#")
        await c.bind_ok("wf", "task.#")
        await c.bind_ok("wf", "task.1")

        async def both():
            while set((await c.ping())["pos"]) != {"public:0", "wf:0"}:
                await asyncio.sleep(0.05)
        await asyncio.wait_for(both(), 10)
    talk(f, token, go)


def test_unbind_takes_back_one_binding(f, token):
    async def go(c):
        for key in ("a.#", "a.#", "b.#", "fence"):
            await c.bind_ok("public", key)
        f.publish("public", "a.1", {"n": 1})
        assert [m["msg"]["n"] for m in await c.collect(2)] == [1, 1]
        assert await c.ask(unbind={"ex": "public", "key": "a.#"}, req=20) == {"req": 20, "ok": True}
        f.publish("public", "a.1", {"n": 2})
        f.publish("public", "fence", {"n": 3})
        assert [m["msg"]["n"] for m in await c.collect(2)] == [2, 3]
        assert (await c.ask(unbind={"ex": "public", "key": "a.#"}))["ok"] is True
        f.publish("public", "a.1", {"n": 4})
        f.publish("public", "b.1", {"n": 5})
        f.publish("public", "fence", {"n": 6})
        assert [m["msg"]["n"] for m in await c.collect(2)] == [5, 6]
        answer = await c.ask(unbind={"ex": "public", "key": "a.#"}, req=21)
        assert answer["code"] == "not_bound" and set(answer) == {"req", "error", "code"} and answer["req"] == 21
    talk(f, token, go)


@pytest.mark.parametrize("what", [{"ex": "public", "key": "b.#"}, {"ex": "public", "key": "a.*"},
                                  {"ex": "wf", "key": "a.#"}, {"ex": "absent", "key": "a.#"},
                                  {"ex": "public", "key": ""}])
def test_unbind_of_what_is_not_bound(f, token, what):
    async def go(c):
        await c.bind_ok("public", "a.#")
        assert (await c.ask(unbind=what))["code"] == "not_bound"
        f.publish("public", "a.1", {"n": 1})
        assert (await c.next())["msg"] == {"n": 1}
    talk(f, token, go)


def test_an_old_clients_unbind_is_served_in_silence(f, token):
    async def go(c):
        await c.bind_ok("public", "fence")
        await c.bind_ok("public", "a.#")
        await c.send({"unbind": {"ex": "public", "key": "a.#"}})
        await c.ping()
        f.publish("public", "a.1", {"n": 1})
        f.publish("public", "fence", {"n": 2})
        assert (await c.next())["msg"] == {"n": 2}
        await c.send({"unbind": {"ex": "public", "key": "a.#"}})
        assert set(await c.next()) == {"error"}
    talk(f, token, go)


# --- codes --------------------------------------------------------------------------------------------------------------

REFUSED = [
    ({"bind": {"ex": "absent", "key": "a"}}, "unknown_exchange"),
    ({"bind": {"ex": "", "key": "a"}}, "unknown_exchange"),
    ({"bind": {"ex": "x" * 300, "key": "a"}}, "unknown_exchange"),
    ({"bind": {"ex": "public", "key": "k" * 256}}, "bad_key"),
    ({"bind": {"ex": "public", "key": "é" * 128}}, "bad_key"),
    ({"bind": {"ex": "public", "key": 5}}, "bad_key"),
    ({"bind": {"ex": "public", "key": None}}, "bad_key"),
    ({"bind": {"ex": "public", "key": ["a"]}}, "bad_key"),
    ({"bind": {"ex": "public"}}, "bad_key"),
    ({"bind": {"key": "a"}}, "bad_request"),
    ({"bind": {"ex": 5, "key": "a"}}, "bad_request"),
    ({"bind": {"ex": None, "key": "a"}}, "bad_request"),
    ({"bind": {}}, "bad_request"),
    ({"bind": []}, "bad_request"),
    ({"bind": "public"}, "bad_request"),
    ({"bind": None}, "bad_request"),
    ({"bind": {"ex": "wf", "key": "deny.#"}}, "denied"),
    ({"bind": {"ex": "wf.task", "key": "#"}}, "denied"),
    ({"unbind": {}}, "bad_request"),
    ({"unbind": 7}, "bad_request"),
    ({"unbind": {"ex": "public"}}, "bad_key"),
    ({"unbind": {"ex": "public", "key": "k" * 256}}, "bad_key"),
    ({"auth": {}}, "bad_request"),
    ({"auth": "ey"}, "bad_request"),
    ({"auth": {"jwt": 5}}, "bad_request"),
    ({"subscribe": {"ex": "public", "key": "a"}}, "bad_request"),
    ({}, "bad_request"),
]


@pytest.mark.parametrize("command,code", REFUSED, ids=[f"{n}-{code}" for n, (_, code) in enumerate(REFUSED)])
def test_refusals_have_a_code_and_harm_nothing(f, token, command, code):
    async def go(c):
        await c.bind_ok("public", "a.#")
        answer = await c.ask(**command, req=99)
        assert set(answer) == {"req", "error", "code"}, answer
        assert answer["req"] == 99 and answer["code"] == code and len(answer["error"]) > 5
        # The same without req, in a session that has sent one: only the text.
        await c.send(command)
        assert set(await c.next()) == {"error"}
        f.publish("public", "a.1", {"n": 1})
        assert (await c.next())["msg"] == {"n": 1}
    talk(f, token, go)


def test_errors_are_counted_by_code(f, token):
    async def go(c):
        before = f.gateway.metric('event_gateway_errors_total{code="unknown_exchange"}')
        await c.ask(bind={"ex": "absent", "key": "a"})
        assert f.gateway.metric('event_gateway_errors_total{code="unknown_exchange"}') == before + 1
        before = f.gateway.metric('event_gateway_requests_total{command="ping"}')
        await c.ping()
        assert f.gateway.metric('event_gateway_requests_total{command="ping"}') == before + 1
    talk(f, token, go)


def test_a_key_of_255_bytes_is_a_key(f, token):
    async def go(c):
        key = "é" * 127 + "k"
        await c.bind_ok("public", key)
        await c.bind_ok("public", "")
        f.publish("public", key, {"n": 1})
        f.publish("public", "", {"n": 2})
        assert [m["msg"]["n"] for m in await c.collect(2)] == [1, 2]
    talk(f, token, go)


# --- since and auth (test_resume.py and test_auth.py know more) ---------------------------------------------------------


@pytest.mark.parametrize("since", ["public:0:k3x9:1700000000000-0", ["public:0:k3x9:1700000000000-0"]], ids=["id", "array"])
def test_a_since_is_never_ignored(f, token, since):
    """What cannot be recovered (here: another epoch) is said; never bound as if it were not there."""
    async def go(c):
        answer = await c.ask(bind={"ex": "public", "key": "a.#", "since": since})
        assert answer.get("recovered") is False, answer
    talk(f, token, go)


@pytest.mark.parametrize("since", [5, None, {}, [], [5], True, "", "1700000000000-0", "wf:0:k3x9:1700000000000-0"], ids=repr)
def test_a_since_that_is_none_is_refused(f, token, since):
    async def go(c):
        answer = await c.ask(bind={"ex": "public", "key": "a.#", "since": since})
        assert answer["code"] == "bad_request"
        assert (await c.ask(unbind={"ex": "public", "key": "a.#"}))["code"] == "not_bound"
    talk(f, token, go)


def test_a_new_token_on_a_living_connection_is_answered(f, token):
    async def go(c):
        await c.bind_ok("public", "a.#")
        assert await c.ask(auth={"jwt": token(exp=7200)}, req=5) == {"req": 5, "ok": True}
        answer = await c.ask(auth={"jwt": "nonsense"})
        assert set(answer) == {"req", "error", "code"} and answer["code"] == "bad_token"
        f.publish("public", "a.1", {"n": 1})
        assert (await c.next())["msg"] == {"n": 1}
    talk(f, token, go)


# --- req -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("req", [0, -1, 9007199254740993, "", "a", "é\n\"\\", "x" * 128], ids=repr)
def test_req_comes_back_as_it_is(f, token, req):
    async def go(c):
        await c.send({"ping": 1, "req": req})
        text = await c.next_text()
        assert json.loads(text)["req"] == req and type(json.loads(text)["req"]) is type(req)
    talk(f, token, go)


@pytest.mark.parametrize("req", [None, 1.5, True, [], {}, "x" * 129], ids=lambda r: repr(r)[:12])
def test_a_req_of_another_type_is_an_error_without_req(f, token, req):
    async def go(c):
        await c.send({"bind": {"ex": "public", "key": "a.#"}, "req": req})
        assert set(await c.next()) == {"error"}
        # Nothing was bound.
        assert (await c.ask(unbind={"ex": "public", "key": "a.#"}))["code"] == "not_bound"
    talk(f, token, go)


def test_the_first_command_counts_and_other_members_are_ignored(f, token):
    async def go(c):
        bind, other = {"ex": "public", "key": "a.#", "more": 1}, {"ex": "public", "key": "b.#"}
        # Whatever their order in the text: bind before unbind before auth before ping.
        await c.send('{"ping":1,"unbind":%s,"x":{"bind":0},"bind":%s,"req":1}' % (json.dumps(other), json.dumps(bind)))
        answer = await c.next()
        assert answer["req"] == 1 and answer["ok"] is True
        assert (await c.ask(auth={"jwt": "x"}, unbind=bind))["ok"] is True
        assert (await c.ask(ping=1, auth={"jwt": "x"}))["code"] == "bad_token"
        assert (await c.ask(ping=None, req=4))["pos"] == {}
    talk(f, token, go)


def test_answers_come_in_the_order_of_their_commands_where_nobody_is_asked(f, token):
    async def go(c):
        await c.bind_ok("public", "z")  # the channels of the others are below nothing that is awaited
        for n in range(50):
            await c.send({"ping": 1, "req": n})
            await c.send({"unbind": {"ex": "public", "key": "none"}, "req": f"u{n}"})
        answers = await c.collect(100)
        assert [a["req"] for a in answers] == [r for n in range(50) for r in (n, f"u{n}")]
    talk(f, token, go)


def test_a_message_in_pieces_and_a_binary_one_are_commands(f, token):
    async def go(c):
        message = json.dumps({"bind": {"ex": "public", "key": "a.#"}, "req": 1})
        await c.socket.send([message[:5], message[5:20], message[20:]])
        assert (await c.next())["ok"] is True
        await c.send(json.dumps({"bind": {"ex": "public", "key": "a.#"}, "req": 2}).encode())
        assert (await c.next())["ok"] is True
        f.publish("public", "a.1", {"n": 1})
        assert [m["msg"]["n"] for m in await c.collect(2)] == [1, 1]
    talk(f, token, go)


def test_old_clients_receive_nothing_new(f, token):
    """Every kind of message to a client that never sent req has a shape that the reference has."""
    async def go(c):
        for command in ({"bind": {"ex": "public", "key": "a.#"}}, {"bind": {"ex": "absent", "key": "a"}}, {"ping": 1},
                        {"auth": {"jwt": "x"}}, {"unbind": {"ex": "public", "key": "none"}}, {}):
            await c.send(command)
        for _ in range(400):
            f.publish("public", "a.1", {"n": 1})
            if any('"msg"' in m for m in c.all):
                break
            await asyncio.sleep(0.02)
        messages = [json.loads(m) for m in c.all]
        assert all(set(m) in ({"error"}, {"id", "headers", "dinfo", "msg"}) for m in messages)
        assert sum("error" in m for m in messages) == 4
    talk(f, token, go)
