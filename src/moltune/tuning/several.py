"""Several properties tuned together: one encoder is trained, and each property gets a run folder of its own."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from moltune.config import FinetuneConfig, make_config
from moltune.data.properties import load_properties
from moltune.errors import ConfigError
from moltune.files import write_text
from moltune.predictors.members import blend_of
from moltune.reports.page import render
from moltune.reports.summary import metric_labels, metrics_table, verdict
from moltune.run import CHECKPOINTS, HISTORY, METRICS, PROPERTIES, REPORT, Run, joint_folders, start_run
from moltune.tuning.check import check_request
from moltune.tuning.finetune import check_method, finetune, finish_run, start_tables
from moltune.tuning.history import EpochReport
from moltune.tuning.loop import check_settings
from moltune.tuning.prepare import prepare_properties
from moltune.tuning.train import Task, tune_models

logger = logging.getLogger(__name__)

# "logs" would be taken for logS where case does not count.
_LOGS = "tensorboard"


def finetune_several(
    config: FinetuneConfig | Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: EpochReport | None = None,
) -> dict[str, Run]:
    """Fine-tune one encoder on several properties of a table, which may have gaps, and write a run of each.

    ``data.target`` names the columns, such as ``logD,logS``. Every molecule lies in the same part of the split for all
    properties. All of them weigh the same in the training loss, however many values they have; numbers are
    standardised, and the two classes of a property cost their cross-entropy (see
    :class:`moltune.models.joint.JointModel`). Everything after the training is as of
    :func:`moltune.tuning.finetune.finetune`, for each property by itself: the choice of its head, calibration,
    baselines, blend, intervals and report.

    Args:
        config: the settings, as an object or as a nested mapping.
        resume: go on with unfinished runs of the same settings and data, or return finished ones.
        overwrite: replace what the output folder holds.
        report: called after each step and epoch with what is known, for a progress bar.

    Returns:
        Column → its run, in a folder inside ``output``; of one column, its run in ``output`` itself.

    Raises:
        ConfigError: a setting is wrong, or is for one property.
        DataError: the data cannot be used.
        CheckpointError: the model cannot be loaded.
        RunFolderError: the output folder is taken.
        NumericsError: a loss or prediction is not finite.
    """
    config = config if isinstance(config, FinetuneConfig) else make_config(dict(config))
    path = check_request(config, resume=resume, overwrite=overwrite)
    check_method(config)
    check_settings(config.training)
    properties = load_properties(config.data)
    if len(properties) == 1:
        ((name, molecules),) = properties.items()
        return {name: finetune(config, molecules=molecules, resume=resume, overwrite=overwrite, report=report)}
    if config.adapt.objective != "none":
        raise ConfigError(
            "adapt.objective is for one property: adapt the model with `moltune adapt` first, and give its folder as "
            "--model here"
        )
    prepared = dict(zip(properties, prepare_properties(config, properties), strict=True))
    tasks = [
        Task(one.parts["train"], one.parts.get("validation"), one.target_name, classes=one.classes)
        for one in prepared.values()
    ]
    blends = [blend_of(config, len(one.split.train), len(one.split.validation)) for one in prepared.values()]
    folders = folder_names(prepared)
    first = next(iter(prepared.values())).provenance["data"]
    source = {name: first.get(name) for name in ("source", "format", "sha256")}
    joint = start_run(
        path, config, {"data": source, "properties": folders}, resume=resume, overwrite=overwrite, joint=True
    )
    if joint.finished:
        logger.info("%s holds the finished runs already", joint.path)
        return {name: Run.load(folder) for name, folder in joint_folders(joint.path).items()}
    runs = {}
    for name, one in prepared.items():
        place = joint.path / folders[name]
        data = config.data.model_copy(update={"target": name})
        runs[name] = start_run(
            place, config.model_copy(update={"data": data, "output": place}), one.provenance, resume=resume
        )
        start_tables(runs[name], one)
    tuned = tune_models(
        tasks,
        model=config.model,
        method=config.method,
        training=config.training,
        seed=config.seed,
        folder=joint.path / CHECKPOINTS,
        resume=resume,
        report=report,
        log_folder=joint.path / _LOGS if config.training.report_to else None,
    )
    joint.write_table(HISTORY, tuned[0].history)
    for run, one, own, members in zip(runs.values(), prepared.values(), tuned, blends, strict=True):
        if not run.finished:
            finish_run(run, one, own, members, model=config.model)
    write_summary(joint, runs)
    shutil.rmtree(joint.path / CHECKPOINTS, ignore_errors=True)
    return runs


def folder_names(properties: Iterable[str]) -> dict[str, str]:
    """Property → a name that any disk takes for its folder; no two are the same, whatever the case."""
    found: dict[str, str] = {}
    taken = {CHECKPOINTS, _LOGS}
    for name in properties:
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "property"
        used = next(new for new in (stem, *(f"{stem}-{n}" for n in range(2, 1000))) if new.casefold() not in taken)
        taken.add(used.casefold())
        found[name] = used
    return found


def write_summary(joint: Run, runs: Mapping[str, Run]) -> None:
    """Write the table, the page and, last, the metrics of all properties."""
    metrics = {name: run.metrics for name, run in runs.items()}
    units = {name: str(run.provenance["data"].get("unit") or "") for name, run in runs.items()}
    joint.write_table(PROPERTIES, pd.DataFrame(list(_rows(metrics, units))))
    shown = {}
    for name, own in metrics.items():
        labels, tail = metric_labels(own), f" ({units[name]})" if units[name] else ""
        rows = [
            {"Model": row.label, "Molecules": row.n, **{label: row.text(key) for key, label in labels.items()}}
            for row in metrics_table(own)
            if row.part == "test"
        ]
        shown[f"{name}{tail}: test part"] = pd.DataFrame(rows)
    page = render(
        "analysis.html",
        title=f"{', '.join(runs)} with {joint.config.model.name}, {joint.config.method.name} fine-tuning",
        verdict="Several properties of one table, split together. The report of each lies in its folder: "
        + ", ".join(f"{run.path.name}/{REPORT}" for run in runs.values()),
        findings=[("note", f"{name}. {verdict(own, unit=units[name])}") for name, own in metrics.items()],
        tables=shown,
        figures={},
    )
    write_text(joint.path / REPORT, page)
    joint.write_json(METRICS, metrics)


def _rows(metrics: Mapping[str, Mapping[str, Any]], units: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    """One line per property, part, model and metric."""
    for name, own in metrics.items():
        for row in metrics_table(own):
            about = {"property": name, "unit": units[name], "part": row.part, "predicted_by": row.source, "n": row.n}
            for metric, estimate in row.metrics.items():
                yield {**about, "metric": metric, **estimate}
