"""An event's whole way: publisher, RabbitMQ, ingest, Redis, gateway, WebSocket client."""
import asyncio
import json

from support import http
from support.wait import wait_for


def test_an_event_reaches_a_browser_that_may_see_it(fleet, token, access_api):
    f = fleet()

    async def go():
        async with f.client(token(sub="7")) as c:
            await c.bind_ok("wf", "task.5f.#")
            f.publish("wf", "task.5f.6a", {"_id": "6a", "status": "finished"})
            return await c.next_text()

    text = asyncio.run(go())
    frame = json.loads(text)
    assert list(frame) == ["id", "headers", "dinfo", "msg"]
    assert frame["id"].startswith("wf:0:")
    assert frame["msg"] == {"_id": "6a", "status": "finished"}
    assert frame["dinfo"]["exchange"] == "wf" and frame["dinfo"]["routingKey"] == "task.5f.6a"
    assert frame["dinfo"]["contentType"] == "application/json"
    assert text.endswith('"msg":{"_id":"6a","status":"finished"}}')
    assert [r.path for r in access_api.requests] == ["/event/checkaccess/task.5f.%23"]


def test_an_old_client_hears_nothing_but_its_events(fleet, token):
    f = fleet(gateways=2)

    async def go():
        async with f.client(token()) as a, f.client(token(), gateway=1) as b:
            await a.bind("public", "a.#")
            await b.bind("public", "b.#")
            # Without req a bind has no answer: publish until the event comes through.
            for client, key in ((a, "a.1"), (b, "b.1")):
                async def heard(client=client, key=key):
                    while not client.all:
                        f.publish("public", key, {"n": 1})
                        await asyncio.sleep(0.05)
                await asyncio.wait_for(heard(), 10)
            assert all(json.loads(m)["dinfo"]["routingKey"] == "a.1" for m in a.all)
            assert all(json.loads(m)["dinfo"]["routingKey"] == "b.1" for m in b.all)

    asyncio.run(go())


def test_a_refused_binding_hears_nothing(fleet, token):
    f = fleet()

    async def go():
        async with f.client(token()) as c:
            await c.bind("wf.task", "deny1.#")
            assert await c.next() == {"error": "Access denied wf.task"}
            await c.bind_ok("wf.task", "ok.#")
            f.publish("wf.task", "deny1.t", {"n": 1})
            f.publish("wf.task", "ok.t", {"n": 2})
            assert (await c.next())["msg"] == {"n": 2}

    asyncio.run(go())


def test_probes_and_metrics_answer_on_the_admin_port(fleet):
    f = fleet()
    for program in f.programs:
        assert http.get(f"http://{program.admin}/livez").status == 200
        assert program.readyz().json()["ready"] is True
        assert any(name.startswith(f"event_{program.kind}_") for name in program.metrics())
    health = wait_for(lambda: (h := http.get(f.gateway.http + "/health").json()) and h["amqp_connected"] and h, 10,
                      "the gateway to hear ingest's tick")
    assert health["status"] == "ok"
