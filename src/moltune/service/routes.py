"""The routes of the service."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Query, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse

from moltune import __version__
from moltune.service import page, schemas, uploads, view
from moltune.service.files import VIEW
from moltune.service.jobs import FINISHED, Jobs
from moltune.service.metrics import MEDIA_TYPE, Metrics
from moltune.service.pool import Pool
from moltune.service.problems import Problem, documented
from moltune.service.runner import Runner
from moltune.service.settings import ServiceSettings

router = APIRouter()
_COMMON = documented(400, 401, 403, 413, 422, 503)


class Service:
    """What the routes share; made when the service starts."""

    def __init__(self, settings: ServiceSettings, pool: Pool, jobs: Jobs, runner: Runner, metrics: Metrics) -> None:
        self.settings, self.pool, self.jobs, self.runner, self.metrics = settings, pool, jobs, runner, metrics

    def chosen(self, models: Sequence[str] | None) -> list[str]:
        """Names of the models that a request wants.

        Raises:
            Problem: one is not served.
        """
        known = [one.name for one in self.pool.served]
        unknown = [one for one in models or () if one not in known]
        if unknown:
            raise Problem(422, "unknown-model", f"There is no model of that name; /v1/models lists {', '.join(known)}.")
        return list(dict.fromkeys(models)) if models else known

    def check_length(self, text: str) -> None:
        """Refuse a molecule that is too long to be read.

        Raises:
            Problem: it is.
        """
        limits = self.settings.limits
        most = limits.block if "\n" in text else limits.characters
        if len(text) > most:
            raise Problem(422, "too-long", f"A molecule has {len(text):,} characters; {most:,} are taken.")

    def job(self, job: str) -> dict[str, Any]:
        """A job that exists.

        Raises:
            Problem: it does not.
        """
        found = self.jobs.find(job)
        if found is None:
            raise Problem(404, "no-job", "There is no such job; it may have expired.")
        return found

    def finished(self, job: str) -> dict[str, Any]:
        """A job with a result.

        Raises:
            Problem: there is none.
        """
        found = self.job(job)
        if found["state"] != FINISHED:
            raise Problem(409, "not-done", f"The job is {found['state']}, and has no result.")
        return found


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


@router.post("/v1/predict", responses=_COMMON, tags=["molecules"])
async def predict(request: Request, body: schemas.PredictRequest) -> schemas.PredictResponse:
    """Predict molecules: each property with its interval, domain flag and nearest training molecule."""
    service = _service(request)
    most = service.settings.limits.molecules
    if len(body.molecules) > most:
        detail = f"{len(body.molecules):,} molecules were sent; {most:,} are taken at once: send a file to /v1/jobs."
        raise Problem(422, "too-many", detail)
    for text in body.molecules:
        service.check_length(text)
    found = await service.pool.predict(service.chosen(body.models), body.molecules)
    return schemas.PredictResponse.model_validate({"results": found})


@router.post("/v1/explain", responses=_COMMON, tags=["molecules"])
async def explain(request: Request, body: schemas.ExplainRequest) -> schemas.ExplainResponse:
    """Explain a prediction: contributions of atoms, nearest measured molecules, ionisable sites."""
    service = _service(request)
    service.check_length(body.molecule)
    model = service.chosen(None if body.model is None else [body.model])[0]
    return schemas.ExplainResponse.model_validate(await service.pool.explain(model, body.molecule))


@router.get("/v1/models", responses=documented(401, 403), tags=["models"])
async def models(request: Request) -> schemas.ModelsResponse:
    """The models with their cards, and the limits of the service."""
    service = _service(request)
    limits = service.settings.limits.model_dump()
    found = {"models": service.pool.models, "limits": limits, "version": __version__}
    return schemas.ModelsResponse.model_validate(found)


@router.post("/v1/jobs", status_code=202, responses=_COMMON, tags=["files"])
async def add_job(
    request: Request,
    response: Response,
    file: Annotated[UploadFile, File(description="CSV, TSV, SMI, SDF (also .gz) or XLSX")],
    models: Annotated[list[schemas.Name] | None, Form(max_length=100, description="unset: all")] = None,
    format: Annotated[
        str | None, Form(max_length=20, description="csv, tsv, xlsx, sdf, smi, jsonl or parquet; unset: as the file")
    ] = None,
) -> schemas.Job:
    """Send a file; once this is answered, it is not lost, also not by a restart."""
    service = _service(request)
    # A form cannot leave a list empty: browsers and tools send an empty text.
    chosen = service.chosen([one for one in models or () if one])
    kind = uploads.kind_of(file.filename or "")
    output = f"result.{uploads.output_kind(format or None, kind)}"
    found = await run_in_threadpool(_take, service, file, chosen, f"upload.{kind}", output)
    service.runner.arrived()
    response.headers["Location"] = f"v1/jobs/{found['id']}"
    return schemas.Job.model_validate(found)


def _take(service: Service, file: UploadFile, models: list[str], upload: str, output: str) -> dict[str, Any]:
    place = service.jobs.incoming()
    try:
        with (place / upload).open("wb") as stream:
            shutil.copyfileobj(file.file, stream, 2**20)
            stream.flush()
            os.fsync(stream.fileno())
        if not (place / upload).stat().st_size:
            raise Problem(422, "empty", "The file is empty.")
        uploads.check_packed(place / upload, service.settings.limits.unpacked)
        return service.jobs.add(place, uploads.safe_name(file.filename or ""), models, upload, output)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


@router.get("/v1/jobs", responses=documented(401, 403), tags=["files"])
def list_jobs(request: Request) -> schemas.JobsResponse:
    """The jobs that are kept, the latest first."""
    return schemas.JobsResponse.model_validate({"jobs": _service(request).jobs.listed()})


@router.get("/v1/jobs/{job}", responses=documented(401, 403, 404, 422), tags=["files"])
def get_job(request: Request, job: str) -> schemas.Job:
    """How far a job is; when it is done, counts and histograms."""
    return schemas.Job.model_validate(_service(request).job(job))


@router.get(
    "/v1/jobs/{job}/result",
    responses={200: {"content": {"application/octet-stream": {}}}, **documented(401, 403, 404, 409, 422)},
    response_class=FileResponse,
    tags=["files"],
)
def get_result(request: Request, job: str) -> FileResponse:
    """The file that was sent, with columns added."""
    service = _service(request)
    found = service.finished(job)
    stem = Path(found["name"].removesuffix(".gz")).stem or "molecules"
    return FileResponse(
        service.jobs.place(job) / found["output"],
        media_type="application/octet-stream",
        filename=f"{stem}-predicted.{found['format']}",
    )


@router.get("/v1/jobs/{job}/rows", responses=documented(401, 403, 404, 409, 422), tags=["files"])
def get_rows(
    request: Request,
    job: str,
    offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    sort: Annotated[str | None, Query(max_length=500, description="a column; unset: the order of the file")] = None,
    descending: bool = False,
    model: Annotated[str | None, Query(max_length=200, description="whose domain flag is looked at")] = None,
    domain: Literal["in", "near", "out"] | None = None,
) -> schemas.Rows:
    """A part of a result, sorted and filtered."""
    service = _service(request)
    found = service.finished(job)
    flags = [one["columns"].get("_domain") for one in found["results"] if model in (None, one["model"])]
    wanted = (flags[0], domain) if domain is not None and flags and flags[0] else None
    total, listed = view.rows(
        service.jobs.place(job) / VIEW, offset=offset, limit=limit, sort=sort, descending=descending, domain=wanted
    )
    return schemas.Rows(total=total, offset=offset, rows=listed)


@router.delete("/v1/jobs/{job}", status_code=204, responses=documented(401, 403, 404, 422), tags=["files"])
async def delete_job(request: Request, job: str) -> Response:
    """Forget a job and its files, also one under way."""
    if not await _service(request).runner.remove(job):
        raise Problem(404, "no-job", "There is no such job; it may have expired.")
    return Response(status_code=204)


@router.get("/healthz", responses=documented(503), tags=["operation"])
async def health(request: Request) -> schemas.Health:
    """Whether the service can predict."""
    if not _service(request).pool.ready:
        raise Problem(503, "starting", "No process can predict at the moment.", {"Retry-After": "5"})
    return schemas.Health(status="ok")


@router.get("/metrics", responses=documented(401), tags=["operation"], response_class=Response)
def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    service = _service(request)
    for state, count in service.jobs.counts().items():
        service.metrics.jobs.labels(state).set(count)
    return Response(service.metrics.text(), media_type=MEDIA_TYPE)


@router.get("/", include_in_schema=False)
async def index(request: Request) -> Response:
    """The page."""
    return page.answer(request, page.assets()["index.html"])


@router.get("/assets/{name}", include_in_schema=False)
async def asset(request: Request, name: str) -> Response:
    """A file of the page."""
    found = page.assets().get(name)
    if found is None or name == "index.html":
        raise Problem(404, "not-found", "There is no such file.")
    return page.answer(request, found)
