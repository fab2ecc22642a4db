"""The server of /metrics in a process that has no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from django.conf import settings
from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from runtime.resources import owned
from runtime.scrapers import CHALLENGE, may_read


class Server:
    """Serves this process's /metrics to those who have the token, in a thread, from `open` to `close`."""

    def __init__(self, host: str, port: int, token: str) -> None:
        """Raises `OSError` if the port is taken."""
        self._server = make_server(host, port, _guarded(token), ThreadingWSGIServer, handler_class=_Silent)
        self._thread = Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    def open(self) -> None:
        """Start to answer."""
        self._thread.start()

    def close(self) -> None:
        """Give the port back."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@owned(close=Server.close)
def _server() -> Server:
    port: Any = settings.TALLY.metrics_port
    return Server(settings.TALLY.metrics_host, port, settings.TALLY.metrics_token.get_secret_value())


def serve() -> None:
    """Serve this process's /metrics until its resources are closed, if `TALLY_METRICS_PORT` is set. Raises `OSError` if
    the port is taken."""
    if settings.TALLY.metrics_port:
        _server().open()


class _Silent(WSGIRequestHandler):
    timeout = 10  # seconds that a client may be silent

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: anybody may knock."""


def _guarded(token: str) -> Any:
    answer = make_wsgi_app()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if may_read(environ.get("HTTP_AUTHORIZATION", ""), token):
            found: Iterable[bytes] = answer(environ, start_response)
            return found
        start_response("401 Unauthorized", [("WWW-Authenticate", CHALLENGE), ("Content-Length", "0")])
        return []

    return application
