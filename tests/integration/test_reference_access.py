"""REFERENCE.md, *Access checks*: who is asked, with what, and which answers grant.

A client that is denied hears {"error":"Access denied <exchange>"}; one whose check could not be made hears another error.
Whatever happens, nothing but a grant lets events through, and nobody else notices.
"""
import asyncio
import itertools

import pytest

from support.bystander import Bystander
from support.fleet import default_exchanges

_users = itertools.count(1000)


@pytest.fixture(scope="module")
def f(module_fleet):
    return module_fleet(access={"timeout_ms": 700}, gateway={"session_requests_per_s": 0})


@pytest.fixture(scope="module")
def bystander(f, token):
    with Bystander(f, token("bystander")) as b:
        yield b


@pytest.fixture
def user(token):
    """A user whom nobody has asked about before: nothing is cached for him."""
    return token(f"user{next(_users)}")


async def ask_async(f, token, ex, key, **options):
    async with f.client(token, **options) as c:
        return await c.ask(bind={"ex": ex, "key": key})


def ask(*args, **options):
    """The answer to one bind of an own session."""
    return asyncio.run(ask_async(*args, **options))


async def hears_nothing(f, c, exchange, key):
    """`c` does not get an event of this key: what comes is an event that was published behind it. Its grant also tells
    the gateway that the API is well: failures in a row would open the circuit breaker (docs/access.md)."""
    await c.bind_ok(exchange, "ok.#")
    f.publish(exchange, key, {"secret": True})
    f.publish(exchange, "ok.fence", {"fence": True})
    assert (await c.next())["msg"] == {"fence": True}


def test_the_check_is_a_get_with_the_client_s_token(f, access_api, user):
    """The section's first sentence."""
    assert ask(f, user, "wf.task", "ok.t")["ok"] is True
    request, = access_api.requests
    assert (request.method, request.path) == ("GET", "/event/checkaccess/instance/ok")
    assert request.headers["Authorization"] == f"Bearer {user}"
    assert request.headers["Accept"] == "application/json"


@pytest.mark.parametrize("way", [{"header": True}, {"subprotocol": True}])
def test_the_check_carries_the_token_however_it_came(f, access_api, user, way):
    assert ask(f, user, "wf.task", "ok.t", **way)["ok"] is True
    assert [r.headers["Authorization"] for r in access_api.requests] == [f"Bearer {user}"]


def test_wf_asks_about_the_whole_key(f, access_api, user):
    assert ask(f, user, "wf", "task.5f.#")["ok"] is True
    assert [r.path for r in access_api.requests] == ["/event/checkaccess/task.5f.%23"]


@pytest.mark.parametrize("word", ["ok", "plainok", "created"])
def test_status_ok_grants(f, access_api, user, word):
    """Row: granted only if body.status == "ok"; the content type does not matter, any 2xx does."""
    async def go():
        async with f.client(user) as c:
            await c.bind_ok("wf.task", word + ".#")
            f.publish("wf.task", word + ".t1", {"id": word})
            assert (await c.next())["msg"] == {"id": word}
    asyncio.run(go())


def test_a_slow_grant_counts_from_the_bind(f, access_api, user):
    """The original's slow check delayed the binding and nothing else."""
    access_api.slow_s = 0.4

    async def go():
        async with f.client(user) as c:
            await c.bind("wf.task", "slow.#")
            await c.bind_ok("wf.task", "ok.#")  # others are not held up
            f.publish("wf.task", "ok.t", {"id": "ok"})
            assert (await c.next())["msg"] == {"id": "ok"}
            await c.bind_ok("wf.task", "slow.#")
            f.publish("wf.task", "slow.t", {"id": "slow"})
            assert [m["msg"]["id"] for m in await c.collect(2)] == ["slow", "slow"]
    asyncio.run(go())


@pytest.mark.parametrize("word", ["deny", "upper", "true", "e401json", "e403", "e404", "e500", "e503", "html", "array", "string",
                                  "bare", "broken", "huge", "redirect"])
def test_this_answer_denies(f, access_api, user, bystander, word):
    """Rows: HTTP 500 with {"status":"ok"}, redirects; status not ok, "OK", 401, 500, HTML, array, string."""
    async def go():
        async with f.client(user) as c:
            await c.bind("wf.task", word + ".#")
            assert await c.next_text() == '{"error":"Access denied wf.task"}'
            await hears_nothing(f, c, "wf.task", word + ".t1")
    asyncio.run(go())
    assert access_api.counts() == {word: 1, "ok": 1}  # in particular a redirect is not followed
    bystander.check()


@pytest.mark.parametrize("word", ["reset", "nocontent", "empty", "jsonnull", "e429"])
def test_this_answer_is_an_error_for_that_client_and_no_grant_is_kept(f, access_api, user, bystander, word):
    """Row: refused, reset, 204, empty, null. The original crashed."""
    errors = f.gateway.metric("event_gateway_errors_total")

    async def go():
        async with f.client(user) as c:
            await c.bind("wf.task", word + ".#")
            answer = await c.next()
            assert list(answer) == ["error"] and "wf.task" in answer["error"]
            await hears_nothing(f, c, "wf.task", word + ".t1")
            assert f.gateway.metric("event_gateway_errors_total") == errors + 1
            access_api.behave(word, "ok")
            await c.bind_ok("wf.task", word + ".#")
            f.publish("wf.task", word + ".t1", {"now": "granted"})
            assert (await c.next())["msg"] == {"now": "granted"}
    asyncio.run(go())
    # Asked again, because an error is not cached. (A reset connection may be tried twice.)
    assert access_api.counts()[word] >= 2
    bystander.check()


def test_a_refused_connection_is_an_error_for_that_client(f, access_api, user, bystander):
    """Row: refused."""
    access_api.refuse()
    try:
        answer = ask(f, user, "wf.task", "ok.#")
        assert answer["code"] == "access_error" and "wf.task" in answer["error"]
        assert ask(f, user, "warehouse", "dataset.update.1.ok")["code"] == "access_error"
        bystander.check()
    finally:
        access_api.listen()
    assert ask(f, user, "wf.task", "ok.#")["ok"] is True


def test_no_answer_is_an_error_after_the_timeout(f, access_api, user, bystander):
    """Row: no answer."""
    async def go():
        async with f.client(user) as c:
            started = asyncio.get_running_loop().time()
            answer = await c.ask(bind={"ex": "wf.task", "key": "hang.#"})
            assert answer["code"] == "access_timeout" and "wf.task" in answer["error"]
            assert 0.6 < asyncio.get_running_loop().time() - started < 5
            await hears_nothing(f, c, "wf.task", "hang.t1")
    asyncio.run(go())
    bystander.check()


@pytest.mark.parametrize("key", ["#", "*.t", "*", "#.t", "", "..", ".x", "#.#"])
def test_a_first_word_that_the_pattern_does_not_fix_is_denied_without_asking(f, access_api, user, key):
    """Row: wf.task: key #, *.t."""
    assert ask(f, user, "wf.task", key) == {"req": 1, "error": "Access denied wf.task", "code": "denied"}
    assert access_api.requests == []


@pytest.mark.parametrize("exchange, key, path", [
    ("wf.task", "ok/../x?y", "/event/checkaccess/instance/ok%2F"),
    ("wf", "ok/../x?y", "/event/checkaccess/ok%2F..%2Fx%3Fy"),
    ("wf", "a#b", "/event/checkaccess/a%23b"),
    ("wf", "a%2e%2e/b c\r\nX: y", "/event/checkaccess/a%252e%252e%2Fb%20c%0D%0AX%3A%20y"),
    ("wf", "\u00e9", "/event/checkaccess/%C3%A9"),
    ("warehouse", "dataset.update.1.p/../../1.#", "/event/checkaccess/project/p%2F"),
], ids=["wf.task", "wf", "fragment", "encoded", "not_ascii", "warehouse"])
def test_a_key_stays_one_segment_of_the_path(f, access_api, user, exchange, key, path):
    """Row: ok/../x?y reached the API as another path."""
    assert ask(f, user, exchange, key)["ok"] is True
    assert [r.path for r in access_api.requests] == [path]


@pytest.mark.parametrize("exchange, key", [("wf", "."), ("wf", ".."), ("wf", ""), ("warehouse", "dataset.update.1..x")])
def test_a_key_that_is_no_segment_is_denied_without_asking(f, access_api, user, exchange, key):
    answer = ask(f, user, exchange, key)
    assert answer["code"] == "denied"
    assert access_api.requests == []


INSTANCE = [
    # gids, key, granted
    (None, "na.#", True),
    (None, "na.1", True),
    ([59], "59.#", True),
    (["59"], "59.1", True),
    ([1, "59"], "59", True),
    ([59], "60.#", False),
    ([], "59.#", False),
    (None, "59.#", False),
    ([59], "59abc.#", False),
    ([59], "059.#", False),
    ([59], "59.0", True),
    ([59.5], "59.#", False),
    ([59], "#", False),
    ([59], "*.1", False),
    (59, "59.#", False),
    ("59", "59.#", False),
    ([[59]], "59.#", False),
    ({"59": 59}, "59.#", False),
    (["#", "*"], "#", False),
    (None, "nab.#", False),
]


@pytest.mark.parametrize("gids, key, granted", INSTANCE, ids=[f"gids_{g}_key_{k}".replace(" ", "") for g, k, _ in INSTANCE])
def test_instances_are_open_to_na_and_to_members(f, token, access_api, gids, key, granted):
    """Row: wf.instance. The original took 59abc for group 59."""
    claims = {} if gids is None else {"gids": gids}
    answer = ask(f, token(**claims), "wf.instance", key)
    if granted:
        assert answer["ok"] is True
    else:
        assert answer == {"req": 1, "error": "Access denied wf.instance", "code": "denied"}
    assert access_api.requests == []


def test_members_hear_their_instance_only(f, token):
    """Row: wf.instance."""
    async def go():
        async with f.client(token(gids=[59])) as c:
            await c.bind_ok("wf.instance", "59.#")
            await c.bind_ok("wf.instance", "na.#")
            for key in ("60.1", "59abc.1", "590.1", "59.1", "na.1"):
                f.publish("wf.instance", key, {"k": key})
            assert [m["msg"]["k"] for m in await c.collect(2)] == ["59.1", "na.1"]
    asyncio.run(go())


@pytest.mark.parametrize("key", ["dataset", "dataset.update", "dataset.update.1", "dataset.*.1", "thing.update.1.ok", "#",
                                 "dataset.#", "dataset.update.1.*", "dataset.update.1.#", "*.update.1.ok"])
def test_warehouse_with_a_short_key_or_an_unknown_collection_is_denied_and_said_so(f, access_api, user, key):
    """Row: warehouse. The original sent nothing."""
    assert ask(f, user, "warehouse", key) == {"req": 1, "error": "Access denied warehouse", "code": "denied"}
    assert access_api.requests == []


def test_warehouse_asks_about_the_project(f, access_api, user):
    """Row: warehouse."""
    async def go():
        async with f.client(user) as c:
            await c.bind_ok("warehouse", "dataset.update.1.ok.#")
            f.publish("warehouse", "dataset.update.1.ok.ds1", {"a": 1})
            assert (await c.next())["msg"] == {"a": 1}
            await c.bind("warehouse", "project.update.1.deny")
            assert await c.next_text() == '{"error":"Access denied warehouse"}'
    asyncio.run(go())
    assert sorted(r.path for r in access_api.requests) == ["/event/checkaccess/project/deny", "/event/checkaccess/project/ok"]


def test_the_old_names_of_warehouse_are_known(f, access_api, user):
    """Row: warehouse. The first word of a key of warehouse.dataset is the project."""
    assert ask(f, user, "warehouse.dataset", "ok.#")["ok"] is True
    assert ask(f, user, "warehouse.dataset", "deny.#")["code"] == "denied"
    assert sorted(r.path for r in access_api.requests) == ["/event/checkaccess/project/deny", "/event/checkaccess/project/ok"]


def test_an_answer_is_asked_for_once_and_shared_by_gateways(f, token, access_api):
    """Row: caching. There was none. The claims make the user, not the token: iat and exp do not count."""
    sub = f"user{next(_users)}"
    for exp in (3600, 1800):
        for key, granted in (("ok.#", True), ("deny.#", False)):
            answer = ask(f, token(sub, exp=exp), "wf.task", key)
            assert answer.get("ok", False) is granted
    assert access_api.counts() == {"ok": 1, "deny": 1}
    assert ask(f, token(sub, role="other"), "wf.task", "ok.#")["ok"] is True
    assert ask(f, token("other" + sub), "wf.task", "ok.#")["ok"] is True
    assert ask(f, token(sub), "wf.task", "ok.t")["ok"] is True
    assert access_api.counts()["ok"] == 4


def test_a_second_gateway_knows_what_the_first_was_told(f, token, access_api):
    """Row: caching."""
    second = f.add_gateway()
    user = token(f"user{next(_users)}")
    assert ask(f, user, "wf.task", "ok.#")["ok"] is True

    async def go():
        async with f.client(user, gateway=second.number) as c:
            await c.bind_ok("wf.task", "ok.#")
    asyncio.run(go())
    assert access_api.count == 1


def test_answers_live_no_longer_than_configured(fleet, token, access_api):
    """Row: caching."""
    f = fleet(access={"grant_ttl_s": 1, "refuse_ttl_s": 1}, exchanges=default_exchanges(access_api.url))
    user = token("1")

    async def asked_again(key):
        async with f.client(user) as c:
            while access_api.counts()[key] < 2:
                await c.ask(bind={"ex": "wf.task", "key": key + ".#"})
                await asyncio.sleep(0.05)
            await c.close()
    for key in ("ok", "deny"):
        asyncio.run(asyncio.wait_for(asked_again(key), 10))
