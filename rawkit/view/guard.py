"""Who may talk to the page's server: the page itself, nobody else.

The server listens on 127.0.0.1, which every program and, by way of the browser, every web page on this computer can
reach.  A request is answered only when

    Host                        names this server: a foreign name that was made to lead here (DNS rebinding) does not
    Origin, Sec-Fetch-Site      when the browser states them, say that the page itself asks
    token                       a random number of this run, in the page's address or the Authorization header, is right
    POST                        carries JSON, with its length: no form of another page can send that

and no answer may be stored, framed, guessed at or read by another origin.

References: W3C Fetch Metadata; W3C Content Security Policy Level 3; RFC 6750 (bearer tokens); OWASP cheat sheet
"Cross-site request forgery prevention".
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BEARER = "Bearer "
_HTTP_PORT = 80  # which browsers leave out of Host and Origin
_LONGEST_BODY = 16_384  # bytes; the page's own requests have a few hundred
_ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """ASGI application that passes on what it lets in.

    Parameters
    ----------
    app : ASGI application
    token : str
    port : int
        The server listens there, on 127.0.0.1.
    """

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self.app, self.token = app, token
        names = ("127.0.0.1", "localhost")
        self.hosts = {f"{name}:{port}" for name in names} | (set(names) if port == _HTTP_PORT else set())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the life of the server; there are no web sockets
            await self.app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self.refusal(scope["method"], Headers(scope=scope), scope["query_string"])
        answer = self.app if refusal is None else PlainTextResponse(refusal + "\n", status_code=403)
        await answer(scope, receive, sealed)

    def refusal(self, method: str, headers: Mapping[str, str], query: bytes) -> str | None:
        """Why a request is refused, in one line; None when it is let in."""
        host = headers.get("host", "")
        if host not in self.hosts:
            return "refused: the request names another host than this server."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin != f"http://{host}":
            return "refused: the request comes from another origin."
        if site is not None and site not in ("same-origin", "none"):
            return "refused: the request comes from another site; paste the address into the browser's address bar."
        if not self._knows_token(headers, query):
            return "refused: the token is missing or wrong; open the address that rawkit view printed."
        if method == "GET":
            return None
        if method != "POST":
            return f"refused: {method} is not used here."
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            return "refused: a POST request must carry application/json."
        length = headers.get("content-length", "")
        stated = length.isascii() and length.isdigit() and "transfer-encoding" not in headers
        if not stated or int(length) > _LONGEST_BODY:
            return f"refused: a request must state its length, at most {_LONGEST_BODY} bytes."
        return None

    def _knows_token(self, headers: Mapping[str, str], query: bytes) -> bool:
        stated = headers.get("authorization", "")
        told = (
            stated.removeprefix(_BEARER)
            if stated.startswith(_BEARER)
            else parse_qs(query.decode("latin-1")).get("token", [""])[0]
        )
        return hmac.compare_digest(told.encode(), self.token.encode())
