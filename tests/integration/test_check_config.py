"""The command line of every program: wrong configurations are named in full, secrets are not shown, health is told."""
import json
import re

import pytest

from support.fleet import bin_dir, run
from support.ports import free_port

KINDS = ["gateway", "ingest"] + (["notifier"] if (bin_dir() / "event-notifier").exists() else [])

# A mistake, and what its line must name: the path, the value, what is allowed.
MISTAKES = [
    (("prefx", "x"), ["prefx", "prefix"]),
    (("log", "level", "loud"), ["log.level", '"loud"', "debug"]),
    (("amqp", "url", "http://broker/"), ["amqp.url", "http://broker/", "amqp://"]),
    (("amqp", "heartbeat_s", 0), ["amqp.heartbeat_s", "0", "1..600"]),
    (("redis", "url", "redis://:hush@h:99999/0"), ["redis.url", "port"]),
    (("jwt", "leeway_s", "30"), ["jwt.leeway_s", '"30"']),
    (("jwt", "require_exp", 1), ["jwt.require_exp", "1"]),
    (("exchanges", "wf", {"type": "round", "access": []}), ["exchanges.wf.type", '"round"', "topic"]),
    (("exchanges", "a.b", {"access": [{"http": "ftp://x/"}]}), ["exchanges", "access[0].http", "ftp://x/", "http"]),
    (("exchanges", "c", {"access": [{"when": "x" * 256, "allow": True}]}), ["exchanges.c.access[0].when", "255"]),
    (("exchanges", "d", {"access": [{"claim": "gids", "has": "{key.0}"}]}), ["exchanges.d.access[0].claim", '"gids"']),
    (("access", "timeout_ms", 0), ["access.timeout_ms", "0", "1..600000"]),
    (("gateway", "listen", "nowhere"), ["gateway.listen", '"nowhere"', "port"]),
    (("gateway", "trusted_proxies", ["10.0.0.0/99"]), ["gateway.trusted_proxies[0]", "10.0.0.0/99"]),
    (("gateway", "ping_interval_s", -1), ["gateway.ping_interval_s", "-1"]),
    (("ingest", "prefetch", 70000), ["ingest.prefetch", "70000", "65535"]),
]


def config_with(mistakes):
    config = {}
    for path, _ in mistakes:
        at = config
        for name in path[:-2]:
            at = at.setdefault(name, {})
        at[path[-2]] = path[-1]
    return config


@pytest.mark.parametrize("kind", KINDS)
def test_ten_mistakes_and_more_are_all_named(kind, tmp_path):
    file = tmp_path / "fleet.json"
    file.write_text(json.dumps(config_with(MISTAKES)))
    done = run(kind, "--check-config", "--config", file)
    assert done.returncode == 1
    lines = (done.stdout + done.stderr).splitlines()
    assert len(MISTAKES) >= 10
    for _, parts in MISTAKES:
        assert any(all(part in line for part in parts) for line in lines), (parts, lines)
    assert len(lines) == len(MISTAKES), "one line for each mistake, and nothing else"
    assert "hush" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[m[1][0] for m in MISTAKES])
def test_a_program_does_not_start_with_a_mistake(number, tmp_path):
    # The programs share the code, so each is tried with some of them.
    kind, mistake = KINDS[number % len(KINDS)], MISTAKES[number]
    file = tmp_path / "fleet.json"
    file.write_text(json.dumps(config_with([mistake])))
    done = run(kind, "--config", file)
    assert done.returncode == 1
    assert all(part in done.stderr for part in mistake[1])


@pytest.mark.parametrize("text,expected", [("", "expected"), ("{", "line"), ("[]", "object"), ('{"log":{}} x', "end of file"),
                                           ('{"log":{},"log":{}}', "log"), ("\xff\xfe", "0xff"), ('{"prefix":"a\\u0000b"}', "")])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_a_json_object_is_refused(kind, text, expected, tmp_path):
    file = tmp_path / "fleet.json"
    file.write_bytes(text.encode("latin-1"))
    done = run(kind, "--check-config", "--config", file)
    assert done.returncode == 1
    assert str(file) in done.stderr or "prefix" in done.stderr
    assert expected in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_is_not_there(kind, tmp_path):
    done = run(kind, "--check-config", "--config", tmp_path / "none.json")
    assert done.returncode == 1 and "none.json" in done.stderr and "No such file" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_a_right_one_is_ok_and_shown_with_its_defaults_and_without_its_secrets(kind, tmp_path, keys):
    file = tmp_path / "fleet.json"
    file.write_text(json.dumps({
        "amqp": {"url": "amqp://user:${BROKER_PASSWORD}@broker/%2f"},
        "redis": {"url": "redis://:${REDIS_PASSWORD:-tell-nobody-else}@cache:6379/0"},
        "jwt": {"keys": [{"alg": "RS256", "file": str(keys.auth.public_file)}]},
        "exchanges": {"wf": {"access": [{"http": "http://${HOST:-localhost}/check/{key}"}]}},
        "gateway": {"session_bindings_max": 7},
    }))
    env = {"BROKER_PASSWORD": "tell-nobody"}
    assert run(kind, "--check-config", "--config", file, env=env).returncode == 0
    done = run(kind, "--show-config", "--config", file, env=env)
    assert done.returncode == 0
    assert "tell-nobody" not in done.stdout + done.stderr
    shown = json.loads(done.stdout)
    assert shown["amqp"]["url"] == "amqp://user:***@broker/%2f"
    assert shown["redis"]["url"] == "redis://:***@cache:6379/0"
    assert shown["gateway"]["session_bindings_max"] == 7
    assert shown["gateway"]["message_max_bytes"] == 65536
    assert shown["exchanges"]["wf"]["access"][0]["http"] == "http://localhost/check/{key}"
    assert shown["exchanges"]["wf"]["type"] == "topic"
    # What is shown can be used again.
    again = tmp_path / "again.json"
    again.write_text(done.stdout.replace(":***@", ":x@"))
    assert run(kind, "--check-config", "--config", again).returncode == 0
    # A variable that is not set is a mistake like others.
    done = run(kind, "--check-config", "--config", file)
    assert done.returncode == 1 and "BROKER_PASSWORD" in done.stderr and "amqp.url" in done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_version_help_and_wrong_options(kind):
    done = run(kind, "--version")
    assert done.returncode == 0 and re.match(rf"event-{kind} \d+\.\d+", done.stdout) and done.stderr == ""
    done = run(kind, "--help")
    assert done.returncode == 0 and done.stderr == ""
    for option in ("--config", "--check-config", "--show-config", "--health", "--version", "--help"):
        assert option in done.stdout
    for wrong in (["--what"], ["extra"], ["--config"], ["--version", "--help"]):
        done = run(kind, *wrong)
        assert done.returncode == 2 and done.stdout == "" and "Usage" in done.stderr, wrong


def test_health_tells_by_its_exit_status_whether_the_program_is_ready(fleet, redis, proxy, tmp_path):
    way = proxy(redis.port)
    way.set("refuse")
    f = fleet(redis_url=f"redis://127.0.0.1:{way.port}/0", ready=False)
    from support.wait import wait_for
    for program in f.programs:
        wait_for(lambda: program.readyz().status == 503, 10, "the admin port")
        done = run(program.kind, "--health", "--config", program.config_file)
        assert done.returncode == 1, "running, but not ready"
    way.set("pass")
    for program in f.programs:
        program.await_ready()
        done = run(program.kind, "--health", "--config", program.config_file)
        assert done.returncode == 0, done.stderr
    for kind in ("gateway", "ingest"):
        file = tmp_path / f"{kind}.json"
        file.write_text(json.dumps({kind: {"admin": f"127.0.0.1:{free_port()}"}}))
        done = run(kind, "--health", "--config", file)
        assert done.returncode == 1 and done.stderr, "nobody listens there"


@pytest.mark.parametrize("kind", ["gateway", "ingest"])
def test_a_port_that_is_taken_is_a_clear_failure(fleet, kind):
    f = fleet(ingests=0)
    program = f.gateway
    if kind == "gateway":
        other = f.add_gateway({"gateway": {"listen": program.listen}}, start=False)
    else:
        other = f.add_ingest({"ingest": {"admin": program.admin}}, start=False)
    other.process.start()
    assert other.process.wait(20) == 1
    other.process.popen = None
    taken = program.listen if kind == "gateway" else program.admin
    assert taken in other.log() and "in use" in other.log()


def test_reload_of_a_broken_configuration_keeps_the_old_one_and_logs_every_fault(fleet, token):
    import asyncio
    import signal

    from support.wait import wait_for
    f = fleet()
    good = f.gateway.config_file.read_text()
    broken = json.loads(good)
    for part in (config_with(MISTAKES[1:4]), {"exchanges": {"wf": {"access": "private"}}},
                 {"gateway": {"ping_interval_s": -5}, "unknown": 1}):
        for key, value in part.items():
            if isinstance(value, dict):
                broken.setdefault(key, {}).update(value)
            else:
                broken[key] = value

    async def go():
        async with f.client(token()) as c:
            await c.bind_ok("public", "#")
            for program in f.programs:
                for text in (json.dumps(broken), "{ not json", None):
                    before = program.log().count("RELOAD-REFUSED")
                    if text is None:
                        program.config_file.unlink()
                    else:
                        program.config_file.write_text(text)
                    program.signal(signal.SIGHUP)
                    await asyncio.to_thread(
                        wait_for, lambda: program.log().count("RELOAD-REFUSED") == before + 1, 10, "the refusal")
                log = program.log()
                for path in ("log.level", "amqp.url", "amqp.heartbeat_s", "exchanges.wf.access",
                             "gateway.ping_interval_s", "unknown"):
                    assert path in log, (program.name, path)
                assert program.metric(f"event_{program.kind}_reloads_total") == 0
                assert program.is_ready()
            # All is as it was: bindings live, new ones are granted by the old rules.
            await c.bind_ok("wf", "task.#")
            f.publish("wf", "task.1", {"n": 1})
            f.publish("public", "a", {"n": 2})
            assert {m["msg"]["n"] for m in await c.collect(2)} == {1, 2}
            # And a right one is taken over afterwards.
            f.gateway.reload({"gateway": {"session_bindings_max": 2}})
            await asyncio.to_thread(f.gateway.await_metric, "event_gateway_reloads_total", lambda v: v == 1)
            assert (await c.ask(bind={"ex": "public", "key": "x"}))["code"] == "too_many_bindings"

    asyncio.run(go())
