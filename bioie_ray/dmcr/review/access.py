"""Who may use the page: an ASGI wrapper around it, so that no route can be forgotten.

* Another site in the same browser cannot: there are no CORS headers, whatever changes something needs a header that only a page of
  this origin may send, and the cookie is ``SameSite=Strict``.
* A name that is made to point here (DNS rebinding) does not: ``Host`` has to be an address, a loopback name or a name that was given.
* Another machine cannot without the token, by ``Authorization: Bearer`` or by the cookie that ``/login?token=`` sets.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CSRF_HEADER: Final = "X-Bioie-Review"
COOKIE: Final = "bioie_review"
MIN_TOKEN_LENGTH: Final = 16
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
# A page that goes on by itself: a redirect would count as coming from the site that had the link, and a strict cookie would not be sent.
_LOGGED_IN: Final = (
    '<!doctype html><meta http-equiv="refresh" content="0; url=/"><title>Review</title><p><a href="/">To the review page</a></p>'
)


def check_binding(host: str, token: str | None) -> None:
    """Refuse to serve other machines without a token.

    Raises:
        ValueError: the host is not loopback and there is no token, or the token is short.
    """
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise ValueError(
            f"the token has {len(token)} characters; give one of at least {MIN_TOKEN_LENGTH}, for example from openssl rand -hex 16"
        )
    if token is None and not is_loopback(host):
        raise ValueError(f"the review page would listen on {host} for other machines; give a token, or listen on 127.0.0.1")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    address = _address(host)
    return address.is_loopback if address else host.lower() == "localhost"


class Guard:
    """Lets through who may use the page; ``names`` are host names under which it may be called, beside addresses and localhost."""

    def __init__(self, app: ASGIApp, token: str | None, names: Collection[str] = ()) -> None:
        self._app = app
        self._token = token
        self._names = frozenset(name.lower() for name in names) | {"localhost"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an ASGI call."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        answer = self._refusal(scope) or self._login(scope) or self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_our_name(host):
            return PlainTextResponse("This page is not served under that name.", 421)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("This page takes nothing from other sites.", 403)
        if scope["method"] not in _SAFE_METHODS and CSRF_HEADER not in headers:
            return PlainTextResponse(f"A request that changes something needs the header {CSRF_HEADER}.", 403)
        if self._token is not None and scope["path"] != "/login" and not self._knows_token(headers):
            return PlainTextResponse("Open the page by the link with the token that bioie review printed.", 401)
        return None

    def _login(self, scope: Scope) -> Response | None:
        if scope["path"] != "/login":
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self._token is not None and not _equal(given, self._token):
            return PlainTextResponse("That is not the token of this page.", 401)
        response = HTMLResponse(_LOGGED_IN)
        if self._token is not None:
            response.set_cookie(COOKIE, _cookie_value(self._token), httponly=True, samesite="strict", path="/")
        return response

    def _knows_token(self, headers: Headers) -> bool:
        assert self._token is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given.strip(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and _equal(cookie.value, _cookie_value(self._token))

    def _is_our_name(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _address(name) is not None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _cookie_value(token: str) -> str:
    """Not the token itself, so that who reads a cookie has no token."""
    return hashlib.sha256(f"bioie review cookie {token}".encode()).hexdigest()
