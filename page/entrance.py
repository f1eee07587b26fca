"""What stands before the gate: health and metrics, who may come in, and how often.

`/healthz` answers everybody. `/metrics` answers who asks for it at a loopback address, from this
machine and not through a proxy, unless it is made public.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from . import metrics
from .calls import SINCE, WHO, RefusedError
from .gate import VISITOR
from .limits import Limits
from .login import user_of
from .messages import API, cookie_of, path_of, refusal
from .rate import Rate
from .server import is_loopback, network_of

HEALTH, METRICS = "/healthz", "/metrics"
BEGIN = f"{API}/startup-events"  # by which Gradio finds out whether it can be reached
LOGIN_TRIES = 10  # wrong passwords of one address in a minute
REALM = b'Basic realm="Westlake-Omni", charset="UTF-8"'
PROXIED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")


class Entrance:
    """ASGI middleware; see the module.

    Args:
        app: the gate.
        users: names and passwords; None or empty lets everybody in.
        health: what `/healthz` tells; the page is "ready" or not.
        public_metrics: `/metrics` answers everybody who may come in.
    """

    def __init__(
        self,
        app,
        *,
        limits: Limits,
        users: Mapping[str, str] | None,
        health: Callable[[], dict[str, Any]],
        public_metrics: bool,
    ) -> None:
        self.app = app
        self.users, self.health, self.public_metrics = users or {}, health, public_metrics
        self._of_user = Rate(limits.user_requests)
        self._of_address = Rate(limits.address_requests)
        self._tries = Rate(LOGIN_TRIES)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self._pass(scope, receive, _counting(send))
        except RefusedError as refused:
            response = refusal(refused, scope)
            if refused.status == 401:
                response.headers["www-authenticate"] = REALM.decode()
            if refused.status == 429:
                response.headers["retry-after"] = str(refused.values["seconds"])
            await response(scope, receive, _counting(send))

    async def _pass(self, scope, receive, send) -> None:
        headers, path = Headers(scope=scope), path_of(scope)
        is_read = scope["method"] in ("GET", "HEAD")
        if path == HEALTH and is_read:
            health = self.health()
            await JSONResponse(health, 200 if health["ready"] else 503)(scope, receive, send)
            return
        address = (scope.get("client") or ("",))[0]
        network = network_of(address)
        user = None if path == BEGIN else self._user(headers, network)
        if path == METRICS and is_read:
            if not (self.public_metrics or _is_local(headers, address)):
                raise RefusedError(404, "error_no_such_page")
            content = Response(metrics.exposition(), media_type=metrics.CONTENT_TYPE)
            await content(scope, receive, send)
            return
        if not is_read:
            key = user or headers.get(VISITOR) or cookie_of(headers.get("cookie", "")) or address
            _refuse_often(self._of_address, f"address {network}")
            _refuse_often(self._of_user, f"user {key}")
            told = {WHO: (key, network), SINCE: time.monotonic()}
            scope = {**scope, "state": {**scope.get("state", {}), **told}}
        await self.app(scope, receive, send)

    def _user(self, headers: Headers, address: str) -> str | None:
        """Who has come in; None where everybody may.

        Raises:
            RefusedError: nobody, or with a wrong password.
        """
        if not self.users:
            return None
        given = headers.get("authorization", "")
        user = None
        if given:
            if seconds := self._tries.wait(address):
                raise RefusedError(429, "error_login_tries", seconds=math.ceil(seconds))
            user = user_of(given, self.users)
            if user is None:
                self._tries.take(address)
        if user is None:
            raise RefusedError(401, "error_login")
        return user


def _refuse_often(rate: Rate, key: str) -> None:
    if seconds := rate.take(key):
        limit = rate.per_minute
        raise RefusedError(429, "error_requests", limit=limit, seconds=math.ceil(seconds))


def _is_local(headers: Headers, address: str) -> bool:
    host = headers.get("host", "").rpartition(":")
    name = host[0] if host[2].isdigit() else headers.get("host", "")
    is_proxied = any(name in headers for name in PROXIED)
    return is_loopback(name) and is_loopback(address) and not is_proxied


def _counting(send):
    """`send`, which counts refusals."""

    async def send_and_count(message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            metrics.REFUSED.labels(str(message["status"])).inc()
        await send(message)

    return send_and_count
