"""Resume: `since` in a bind, and a gateway that catches up after its own Redis connection broke (DESIGN 4 and 5)."""
import asyncio
import json
import threading
import time

import redis


def numbers(frames):
    return [f["msg"]["n"] for f in frames if "msg" in f]


def publish_all(f, exchange, key, first, count):
    for n in range(first, first + count):
        f.publish(exchange, key, {"n": n})


async def await_published(watcher, last):
    """`watcher` is a live client bound to everything: once it has the event, the log has it too."""
    await watcher.until(lambda m: m.get("msg", {}).get("n") == last, timeout=30)


def test_a_client_that_comes_back_gets_what_it_missed_and_then_lives_on(fleet, token):
    f = fleet(gateways=2)

    async def go():
        async with f.client(token(), gateway=1) as watcher:
            await watcher.bind_ok("public", "#")
            async with f.client(token()) as c:
                await c.bind_ok("public", "t.1")
                publish_all(f, "public", "t.1", 0, 3)
                last = (await c.collect(3))[-1]["id"]
            publish_all(f, "public", "t.1", 3, 300)
            publish_all(f, "public", "t.2", 1000, 10)
            f.publish("public", "t.1", {"n": 303})
            await await_published(watcher, 303)
            async with f.client(token(), gateway=1) as c:
                answer = await c.bind_ok("public", "t.1", since=last)
                assert answer["recovered"] is True
                # Everything missed was sent before the answer.
                seen = [json.loads(m) for m in c.all]
                assert numbers(seen[:-1]) == list(range(3, 304))
                assert seen[-1] == answer
                f.publish("public", "t.1", {"n": 304})
                await c.until(lambda m: m["msg"]["n"] == 304)
                assert numbers(json.loads(m) for m in c.all) == list(range(3, 305))

    asyncio.run(go())


def test_a_pos_resumes_a_binding_that_saw_no_event(fleet, token):
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "quiet.#")
            await c.bind_ok("public", "t.#")
            f.publish("public", "t.1", {"n": 1})
            await c.next()
            pos = (await c.ping())["pos"]["public:0"]
        async with f.client(token()) as watcher:
            await watcher.bind_ok("public", "#")
            f.publish("public", "quiet.1", {"n": 2})
            await watcher.next()
        async with f.client(token()) as c:
            answer = await c.bind_ok("public", "quiet.#", since="public:0:" + pos)
            assert answer["recovered"] is True
            assert numbers(json.loads(m) for m in c.all) == [2]

    asyncio.run(go())


def test_a_place_that_cannot_be_served_is_refused_and_the_binding_is_live(fleet, token):
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "t.1")
            f.publish("public", "t.1", {"n": 1})
            last = (await c.next())["id"]
            exchange, partition, epoch, place = last.split(":")
            ms = int(place.split("-")[0])
            for since in (f"public:0:zzzz:{place}", f"public:0:{epoch}:{ms + 3600000}-0"):
                answer = await c.bind_ok("public", "t.2", since=since)
                assert answer["recovered"] is False, since
            for since in ("nonsense", 5, {}, [], f"wf:0:{epoch}:{place}", f"public:1:{epoch}:{place}",
                          f"public:0:{epoch}:x"):
                answer = await c.ask(bind={"ex": "public", "key": "t.2", "since": since})
                assert answer["code"] == "bad_request", since
            f.publish("public", "t.2", {"n": 2})
            assert numbers(await c.collect(2)) == [2, 2]

    asyncio.run(go())


def test_large_events_are_read_from_the_log_a_few_at_a_time(fleet, token):
    """Many small events say nothing of the size of those behind them: what one read asks of Redis, and brings into
    the gateway's memory, is bounded in bytes."""
    f = fleet(gateways=2)
    small, large, size = 1500, 40, 400_000

    async def go():
        async with f.client(token(), gateway=1) as watcher:
            await watcher.bind_ok("public", "mark")
            f.publish("public", "mark", {"n": -1})
            since = (await watcher.next())["id"]
            publish_all(f, "public", "t.1", 0, small)
            for n in range(small, small + large):
                f.publish("public", "t.1", {"n": n, "padding": "x" * size})
            f.publish("public", "mark", {"n": -2})
            await watcher.until(lambda m: m["msg"]["n"] == -2, timeout=60)
        async with f.client(token()) as c:
            answer = await c.bind_ok("public", "t.1", since=since, timeout=60)
            assert answer["recovered"] is True
            assert numbers(json.loads(m) for m in c.all if m.startswith('{"id"')) == list(range(small + large))

    asyncio.run(go())
    with redis.Redis.from_url(f.config["redis"]["url"]) as r:
        assert r.info("clients")["client_recent_max_output_buffer"] < 10 * size


def test_resuming_under_load_has_no_seam(fleet, token):
    """Clients come and go while events flow: every one sees every number once, in order."""
    f = fleet(gateways=2)
    total, stop = 3000, threading.Event()

    def publisher():
        for n in range(total):
            f.publish("public", f"t.{n % 3}", {"n": n})
            if n % 20 == 0:
                time.sleep(0.005)  # the pace of the load, so that clients come and go meanwhile
        stop.set()

    async def wanderer(gateway):
        seen, since = [], None
        while True:
            async with f.client(token(), gateway=gateway) as c:
                answer = await c.bind_ok("public", "t.#", timeout=30, **({"since": since} if since else {}))
                if since:
                    assert answer["recovered"] is True
                elif not seen and not first.done():
                    first.set_result(None)
                done = stop.is_set()
                if done:
                    # All is published: the last number must come.
                    await asyncio.wait_for(until_last(c, seen), 30)
                else:
                    await asyncio.sleep(0.15)
                frames = [json.loads(m) for m in c.all]
                frames = [m for m in frames if "msg" in m]
                seen += numbers(frames)
                if frames:
                    since = frames[-1]["id"]
                elif "pos" in answer:
                    since = answer["pos"]
            if seen and seen[-1] == total - 1:
                return seen
            gateway = 1 - gateway

    async def until_last(c, seen):
        while not any(json.loads(m).get("msg", {}).get("n") == total - 1 for m in c.all) and \
                not (seen and seen[-1] == total - 1):
            await asyncio.sleep(0.02)

    async def go():
        nonlocal first
        first = asyncio.get_running_loop().create_future()
        tasks = [asyncio.ensure_future(wanderer(i % 2)) for i in range(6)]
        await first
        thread = threading.Thread(target=publisher)
        thread.start()
        results = await asyncio.gather(*tasks)
        thread.join()
        return results

    first = None
    for seen in asyncio.run(go()):
        assert seen == list(range(seen[0], total)), f"from {seen[0]}: {len(seen)} events"


def test_a_cut_redis_connection_is_only_a_pause(fleet, token, redis):
    f = fleet()
    total = 4000

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "t.#")
            admin = redis.client()

            def work():
                for n in range(total):
                    f.publish("public", f"t.{n % 7}", {"n": n})
                    if n % 500 == 250:
                        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

            thread = threading.Thread(target=work)
            thread.start()
            frames = []
            while len(frames) < total:
                frames.append(await c.next(timeout=30))
            thread.join()
            assert numbers(frames) == list(range(total))
            assert c.is_open

    asyncio.run(go())
    assert f.gateway.metric("event_gateway_redis_disconnects_total{link=\"feed\"}") >= 3


def test_a_log_that_no_longer_reaches_back_is_a_gap_that_is_told(fleet, token, redis):
    f = fleet()

    async def go():
        async with f.client(token()) as old, f.client(token()) as new:
            await old.bind("public", "t.#")
            await new.bind_ok("public", "t.#")

            async def heard():
                while not old.all or len(new.all) < 2:
                    f.publish("public", "t.1", {"n": 0})
                    await asyncio.sleep(0.05)
            await asyncio.wait_for(heard(), 10)
            redis.client().flushall()  # the log is gone, with its epoch
            gap = (await new.until(lambda m: "gap" in m, timeout=30))[-1]["gap"]
            assert gap["ex"] == "public" and gap["from"].split(":")[2] != gap["to"].split(":")[2]
            assert (await old.closed(timeout=30))[0] == 4410

            async def again():
                before = len(new.all)
                while len(new.all) == before:
                    f.publish("public", "t.1", {"n": 1})
                    await asyncio.sleep(0.05)
            await asyncio.wait_for(again(), 20)

    asyncio.run(go())
    assert f.gateway.metric("event_gateway_gaps_total{exchange=\"public\"}") >= 1
