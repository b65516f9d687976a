"""The service on a port."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import uvicorn

from moltune.service.app import create_app
from moltune.service.models import Served
from moltune.service.settings import ServiceSettings

logger = logging.getLogger(__name__)

_PATIENCE = 10


class _Server(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where the service is, once it can be asked."""
        await super().startup(sockets)
        for one in self.servers:
            host, port = one.sockets[0].getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logger.info("ready at http://%s:%d, Ctrl+C ends it", shown, port)


def run(settings: ServiceSettings, served: Sequence[Served]) -> None:
    """Serve until a signal ends it.

    Raises:
        MoltuneError: the models cannot be loaded, or another service uses the folder.
        OSError: the port is taken.
    """
    app = create_app(settings, served)
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        log_level="warning",
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=_PATIENCE,
    )
    app.state.failure = None
    # An error of ours is told in one line below, and not with its traceback.
    logging.getLogger("uvicorn.error").addFilter(lambda record: app.state.failure is None)
    _Server(config).run()
    if app.state.failure is not None:
        raise app.state.failure
