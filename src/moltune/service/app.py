"""The service as an ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from fastapi import FastAPI
from filelock import FileLock, Timeout

from moltune import __version__
from moltune.errors import ConfigError, MoltuneError
from moltune.service import problems
from moltune.service.guard import Guard
from moltune.service.jobs import Jobs
from moltune.service.metrics import Metrics
from moltune.service.models import Served
from moltune.service.pool import Pool
from moltune.service.routes import Service, router
from moltune.service.runner import Runner
from moltune.service.settings import ServiceSettings

DESCRIPTION = (
    "Predictions of molecular properties with calibrated intervals, a domain flag and reasons. "
    "Errors are RFC 9457 problem details."
)


def create_app(settings: ServiceSettings, served: Sequence[Served]) -> FastAPI:
    """Make the application; its processes run from its start-up to its shutdown.

    Args:
        settings: of the service.
        served: models, as :func:`moltune.service.models.served` names them.

    Returns:
        Where it cannot start, its ``state.failure`` says why.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        try:
            with _alone(settings):
                async with _running(app, settings, served, metrics):
                    yield
        except MoltuneError as error:
            app.state.failure = error
            raise

    app = FastAPI(
        title="moltune", version=__version__, description=DESCRIPTION, lifespan=life, docs_url=None, redoc_url=None
    )
    problems.install(app)
    app.include_router(router)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    return app


@asynccontextmanager
async def _running(
    app: FastAPI, settings: ServiceSettings, served: Sequence[Served], metrics: Metrics
) -> AsyncIterator[None]:
    jobs = Jobs(settings.folder, settings.limits)
    pool = Pool(settings, served, metrics)
    runner = Runner(settings, served, jobs, metrics)
    app.state.service = Service(settings, pool, jobs, runner, metrics)
    try:
        await pool.start()
        runner.start()
        yield
    finally:
        await runner.stop()
        await pool.stop()
        jobs.close()


@contextmanager
def _alone(settings: ServiceSettings) -> Iterator[None]:
    """Two services must not run the same jobs."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(settings.folder / "lock", timeout=0):
            yield
    except Timeout:
        raise ConfigError(
            f"another service uses the folder {settings.folder}: end it, or choose another with --folder"
        ) from None
