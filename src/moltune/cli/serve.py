"""Serve predictions and the page: ``moltune serve``."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Annotated

from moltune.cli.console import set_up_logging
from moltune.cli.options import Quiet, option
from moltune.errors import ConfigError

logger = logging.getLogger(__name__)


def serve(
    model: Annotated[
        list[str] | None,
        option(
            "--model",
            help="A run folder, an export or a ready-made model; may be given more than once.",
            default="the best ready-made models, beside those that are named",
        ),
    ] = None,
    only: Annotated[bool, option("--only", help="Serve the named models alone.")] = False,
    host: Annotated[str, option("--host", help="Address to listen on; beyond this machine, a token is asked for.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, option("--port", help="Port to listen on.", min=0, max=65535)] = 8000,
    token: Annotated[
        str | None,
        option("--token", help="What clients must send as a bearer token.", default="the variable MOLTUNE_TOKEN"),
    ] = None,
    workers: Annotated[
        int | None,
        option("--workers", help="Processes that predict molecules.", min=1, default="one per core, up to 4"),
    ] = None,
    job_workers: Annotated[int, option("--job-workers", help="Processes that predict files.", min=1)] = 1,
    folder: Annotated[
        Path | None, option("--folder", help="Where uploads and results are kept.", default="~/.moltune/service")
    ] = None,
    limit: Annotated[
        list[str] | None,
        option("--limit", help="A limit as NAME=VALUE, such as molecules=1000; /v1/models shows all.", default="none"),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Serve predictions over HTTP, and the page: draw a molecule or drop a file, see values, intervals and reasons.

    Example: moltune serve --model runs/mine --port 8000
    """
    set_up_logging(quiet)
    try:
        from moltune.service.server import run
    except ImportError as error:
        raise ConfigError(f"serving needs the package {error.name}: pip install 'moltune[serve]'") from None
    from moltune.config import make_settings
    from moltune.service.models import served
    from moltune.service.settings import TOKEN_VARIABLE, ServiceSettings

    values = {"host": host, "port": port, "token": token or os.environ.get(TOKEN_VARIABLE), "folder": folder}
    values |= {"workers": workers, "job_workers": job_workers, "limits": _pairs(limit or [])}
    settings = make_settings(ServiceSettings, {name: value for name, value in values.items() if value is not None})
    models = served(model or [], only)
    logger.info("loading %s", ", ".join(one.name for one in models))
    run(settings, models)


def _pairs(texts: list[str]) -> dict[str, str]:
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise ConfigError(f"a limit is given as NAME=VALUE, and not as {wrong[0]!r}")
    return dict(text.split("=", 1) for text in texts)
