#!/usr/bin/python3
"""The development auth service: stands in for the services that the fleet asks in production.

    GET|POST /token?sub=1[&admin=1][&gids=59,60][&expires=3600]   {"jwt": ".."}   a token for anybody who asks
    GET /event/checkaccess/task.<instance>..         may the bearer see this instance's tasks? (exchange wf)
    GET /event/checkaccess/instance/<instance>       the same for wf.task
    GET /event/checkaccess/project/<project>         the same for a project's data (warehouse, warehouse.dataset)
    GET /users/   {"where": "{\"_id\":\"1\"}"} in the body, or ?where=..: [{"_id","email",..}]; tokens of admins only
    GET /health

An access check answers {"status":"ok"} or {"status":"denied"}; a token with "admin" among its scopes sees all.
Never run it where others can reach it: it gives a token to anybody.
"""
import argparse
import json
import sys
import time
from pathlib import Path

import jwt
from aiohttp import web

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from support.tokens import Key  # noqa: E402

import sample_data  # noqa: E402


class Unauthorized(Exception):
    pass


class DevAuth:
    def __init__(self, key):
        self.key = key

    def claims(self, request):
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthorized("No authorization token was found")
        try:
            return jwt.decode(token, self.key.public_pem, algorithms=["RS256"], options={"verify_aud": False})
        except jwt.InvalidTokenError as e:
            raise Unauthorized(str(e)) from None

    @staticmethod
    def is_admin(claims):
        scopes = claims.get("scopes")
        return isinstance(scopes, dict) and "admin" in scopes.get("sca", [])

    async def token(self, request):
        asked = dict(request.query)
        if request.method == "POST" and request.can_read_body:
            if request.content_type == "application/json":
                asked.update(await request.json())
            else:
                asked.update(await request.post())
        sub = str(asked.get("sub", "1"))
        user = sample_data.USERS.get(sub, {"gids": [], "username": f"user{sub}"})
        gids = asked.get("gids")
        gids = user["gids"] if gids is None else [int(g) for g in str(gids).split(",") if g]
        try:
            expires = float(asked.get("expires", 86400))
        except ValueError:
            return web.json_response({"message": "expires: a number of seconds"}, status=400)
        scopes = ["user", "admin"] if str(asked.get("admin", "")) not in ("", "0", "False", "false") else ["user"]
        token = self.key.token(sub=sub, exp=expires, gids=gids, scopes={"sca": scopes},
                               profile={"username": user["username"]})
        return web.json_response({"jwt": token, "expires_at": int(time.time() + expires)},
                                 headers={"Access-Control-Allow-Origin": "*"})

    def answer(self, claims, granted):
        granted = granted or self.is_admin(claims)
        return web.json_response({"status": "ok" if granted else "denied"})

    def owns(self, claims, instance):
        found = sample_data.INSTANCES.get(instance)
        return found is not None and found["user_id"] == str(claims.get("sub"))

    async def check_key(self, request):
        claims = self.claims(request)
        words = request.match_info["key"].split(".")
        return self.answer(claims, len(words) > 1 and words[0] in ("task", "instance") and self.owns(claims, words[1]))

    async def check_instance(self, request):
        claims = self.claims(request)
        return self.answer(claims, self.owns(claims, request.match_info["id"]))

    async def check_project(self, request):
        claims = self.claims(request)
        members = sample_data.PROJECTS.get(request.match_info["id"], [])
        return self.answer(claims, str(claims.get("sub")) in members)

    async def users(self, request):
        if not self.is_admin(self.claims(request)):
            return web.json_response({"message": "only for admins"}, status=403)
        try:
            where = request.query.get("where")
            if where is None:
                body = await request.text()
                where = json.loads(body).get("where", "{}") if body else "{}"
            wanted = json.loads(where) if isinstance(where, str) else where
            if not isinstance(wanted, dict):
                raise ValueError("where is not an object")
        except (ValueError, AttributeError) as e:
            return web.json_response({"message": f"where: {e}"}, status=400)
        return web.json_response([u for u in sample_data.USERS.values()
                                  if all(str(u.get(k)) == str(v) for k, v in wanted.items())])

    async def health(self, request):
        return web.json_response({"status": "ok"})


@web.middleware
async def errors(request, handler):
    try:
        return await handler(request)
    except Unauthorized as e:
        return web.json_response({"name": "UnauthorizedError", "message": str(e)}, status=401)


def make_app(key):
    auth = DevAuth(key)
    app = web.Application(middlewares=[errors])
    app.router.add_get("/token", auth.token)
    app.router.add_post("/token", auth.token)
    app.router.add_get("/event/checkaccess/instance/{id}", auth.check_instance)
    app.router.add_get("/event/checkaccess/project/{id}", auth.check_project)
    app.router.add_get("/event/checkaccess/{key}", auth.check_key)
    app.router.add_get("/users/", auth.users)
    app.router.add_get("/health", auth.health)
    return app


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=18104)
    parser.add_argument("--keys", default="build/local/keys", help="folder of the key pair (made if absent)")
    arguments = parser.parse_args()
    web.run_app(make_app(Key(arguments.keys)), host="127.0.0.1", port=arguments.port, print=None,
                access_log_format='%a "%r" %s %b', shutdown_timeout=1)


if __name__ == "__main__":
    main()
