"""A new token on a living connection (DESIGN 5, `auth`)."""
import asyncio


def test_a_new_token_keeps_the_session_beyond_the_old_ones_end(fleet, token):
    f = fleet(jwt={"leeway_s": 0})

    async def go():
        old = token(sub="7", exp=3)
        async with f.client(old) as c, f.client(old) as witness:
            await c.bind_ok("wf", "ok.#")
            answer = await c.ask(auth={"jwt": token(sub="7", exp=600)})
            assert answer["ok"] is True
            # The other session shows that the old token has ended by now.
            assert (await witness.closed(timeout=10))[0] == 4401
            f.publish("wf", "ok.1", {"n": 1})
            assert (await c.next())["msg"] == {"n": 1}
            assert c.is_open

    asyncio.run(go())


def test_a_token_that_is_not_the_users_own_or_not_valid_changes_nothing(fleet, token):
    f = fleet()

    async def go():
        async with f.client(token(sub="7")) as c:
            for jwt, code in ((token(sub="8"), "bad_token"), ("garbage", "bad_token"), (5, "bad_request"),
                              (token(sub="7", exp=-3600), "expired")):
                answer = await c.ask(auth={"jwt": jwt})
                assert answer["code"] == code, jwt
            await c.bind_ok("wf", "ok.#")
        async with f.client() as c:
            assert (await c.ask(auth={"jwt": token(sub="7")}))["code"] == "bad_token"

    asyncio.run(go())


def test_a_token_with_fewer_rights_loses_the_bindings_that_they_gave(fleet, token):
    f = fleet()

    async def go():
        async with f.client(token(sub="7", gids=[59, 60])) as c:
            await c.bind_ok("wf.instance", "59.#")
            await c.bind_ok("wf.instance", "60.#")
            assert (await c.ask(auth={"jwt": token(sub="7", gids=[60])}))["ok"] is True
            assert await c.next() == {"unbound": {"ex": "wf.instance", "key": "59.#"}, "code": "revoked"}
            f.publish("wf.instance", "59.1", {"n": 59})
            f.publish("wf.instance", "60.1", {"n": 60})
            assert (await c.next())["msg"] == {"n": 60}

    asyncio.run(go())
