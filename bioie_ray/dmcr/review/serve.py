"""Serving the page to this machine, or with a token to others."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from urllib.parse import quote

import uvicorn

from bioie_ray.dmcr.decision_log import DecisionLog
from bioie_ray.dmcr.review.access import Guard, check_binding
from bioie_ray.dmcr.review.app import create_app
from bioie_ray.dmcr.review.queue import Queue


class ReviewServer:
    """A server that is bound, so that its ``url`` is known, and serves in ``run`` until ``stop`` or Ctrl-C."""

    def __init__(
        self,
        queue: Queue,
        log: DecisionLog,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        names: Collection[str] = (),
    ) -> None:
        """Bind.

        Raises:
            ValueError: other machines would reach it without a token, or the address cannot be had.
        """
        check_binding(host, token)
        own_names = [name for name in (host, socket.gethostname(), *names) if name]
        self._socket = _bind(host, port)
        self._server = uvicorn.Server(
            # No access log: the link with the token would be in it.
            uvicorn.Config(Guard(create_app(queue, log), token, own_names), log_level="warning", access_log=False, server_header=False)
        )
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._socket.getsockname()[1]}/" + (f"login?token={quote(token, safe='')}" if token else "")

    def run(self) -> None:
        """Serve until ``stop`` or Ctrl-C."""
        with self._socket, suppress(KeyboardInterrupt):  # the way to end it, and no failure
            self._server.run(sockets=[self._socket])

    def stop(self) -> None:
        """End ``run``, from another thread."""
        self._server.should_exit = True


def serve(
    queue: Queue,
    log: DecisionLog,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    *,
    names: Collection[str] = (),
    on_ready: Callable[[str], None] = print,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        queue: what is to be decided.
        log: where decisions go.
        host: the address to listen on; other than loopback only with a token.
        port: 0 takes a free one.
        token: what a browser has to know; at least 16 characters.
        names: host names by which the page may be called beside addresses, localhost and this machine's name.
        on_ready: is given the URL to open, once connections are accepted.

    Raises:
        ValueError: as for ``ReviewServer``.
    """
    server = ReviewServer(queue, log, host=host, port=port, token=token, names=names)
    on_ready(server.url)
    server.run()


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(128)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ValueError(f"cannot listen on {host}, port {port}: {error.strerror}; give another port, or 0 for a free one") from None
    return bound
