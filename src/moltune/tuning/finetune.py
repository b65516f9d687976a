"""One run: molecules → split → tuned model → evaluation beside baselines → run folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.baselines.compare import run_baselines
from moltune.calibration import LEVEL
from moltune.config import FinetuneConfig, ModelSettings, make_config
from moltune.data.describe import describe
from moltune.data.molecules import Molecules
from moltune.errors import ConfigError
from moltune.evaluation.classification import confusion, reliability
from moltune.evaluation.metrics import compare_paired, evaluate, task_of
from moltune.features.embedding import Encoder
from moltune.features.registry import EMBEDDING, FeatureTable, Featurizer, find_feature
from moltune.models.methods.registry import make_method
from moltune.predictors.base import BLEND
from moltune.predictors.base import MODEL as ALONE
from moltune.predictors.blend import Blend, make_blend
from moltune.predictors.confidence import FEWEST_HELD_OUT, Confidence
from moltune.predictors.members import baselines_of, blend_of, check_baselines, check_members, make_member
from moltune.predictors.probe import Probe
from moltune.pretraining.adapt import Adapted, adapt_run
from moltune.reports.class_figures import confusion_matrix, precision_recall, reliability_curve, roc_curve
from moltune.reports.figures import calibration_curve, loss_curves, residual_histogram, true_against_predicted
from moltune.reports.run_page import write_report
from moltune.reports.summary import CROSS_VALIDATION, intervals_shown, refit_words
from moltune.run import (
    BLENDED,
    BOUNDS,
    CHECKPOINTS,
    FIGURES,
    HISTORY,
    INTERVALS,
    METRICS,
    MODEL,
    PREDICTIONS,
    REJECTS,
    REPORT,
    SPLITS,
    Run,
    settings_of,
    start_run,
)
from moltune.tuning.check import check_request
from moltune.tuning.cost import folder_bytes
from moltune.tuning.cross_validation import cross_validate
from moltune.tuning.history import EpochReport
from moltune.tuning.loop import check_settings
from moltune.tuning.prepare import Parts, Prepared, prepare
from moltune.tuning.train import PROBE, Tuned, check_bounds, tune_model

logger = logging.getLogger(__name__)


def finetune(
    config: FinetuneConfig | Mapping[str, Any],
    *,
    molecules: Molecules | None = None,
    resume: bool = False,
    overwrite: bool = False,
    report: EpochReport | None = None,
    features: Mapping[str, Featurizer] | None = None,
) -> Run:
    """Fine-tune a model on one property, evaluate it, and write a run folder.

    The test part is predicted once, after training and the choice of the epoch.

    Args:
        config: the settings, as an object or as a nested mapping; ``data.source`` is needed.
        molecules: loaded and cleaned before, for many runs on the same data; unset: loaded as the settings say.
        resume: go on with an unfinished run of the same settings and data, or return a finished one.
        overwrite: replace an existing run folder.
        report: called after each step and epoch with what is known, for a progress bar.
        features: by name, computed elsewhere, for baselines and for the probes of a blend.

    Returns:
        The finished run.

    Raises:
        ConfigError: a setting is wrong.
        DataError: the data cannot be used.
        CheckpointError: the model cannot be loaded.
        RunFolderError: the output folder is taken.
        NumericsError: a loss or prediction is not finite.
    """
    config = config if isinstance(config, FinetuneConfig) else make_config(dict(config))
    path = check_request(config, resume=resume, overwrite=overwrite, loaded=molecules is not None)
    check_method(config)
    check_settings(config.training)
    prepared = prepare(config, molecules)
    members = blend_of(config, len(prepared.split.train), len(prepared.split.validation))
    run = start_run(path, config, prepared.provenance, resume=resume, overwrite=overwrite)
    if run.finished:
        logger.info("%s holds the finished run already", run.path)
        return run
    start_tables(run, prepared)
    parts = prepared.parts
    smiles = {name: texts for name, (texts, _) in parts.items()}
    model, adapted = adapt_run(run, smiles, prepared.molecules.provenance)
    tuned = tune_model(
        parts["train"],
        parts.get("validation"),
        model=model,
        method=config.method,
        training=config.training,
        seed=config.seed,
        folder=run.path / CHECKPOINTS,
        resume=resume,
        target_name=prepared.target_name,
        bounds=prepared.bounds,
        classes=prepared.classes,
        report=report,
        log_folder=run.path / "logs" if config.training.report_to else None,
    )
    finish_run(run, prepared, tuned, members, model=model, adapted=adapted, features=features)
    return run


def start_tables(run: Run, prepared: Prepared) -> None:
    """Write what is known of the molecules before the training."""
    run.write_table(SPLITS, prepared.splits_table())
    run.write_table(REJECTS, prepared.molecules.rejected)
    if prepared.bounds is not None:
        run.write_table(BOUNDS, prepared.bounds.table)


def finish_run(
    run: Run,
    prepared: Prepared,
    tuned: Tuned,
    members: Sequence[str],
    *,
    model: ModelSettings,
    adapted: Adapted | None = None,
    features: Mapping[str, Featurizer] | None = None,
) -> None:
    """Judge a tuned model, and write model and results into the run folder; ``metrics.json`` comes last.

    Args:
        run: the folder, with its settings.
        prepared: the molecules.
        tuned: the model.
        members: of the blend, beside the model.
        model: checkpoint that tuning started from.
        adapted: how that came about, where it was adapted for this run.
        features: by name, computed elsewhere.
    """
    config, parts = run.config, prepared.parts
    run.write_table(HISTORY, tuned.history)
    run.write_folder(MODEL, tuned.model.save)
    enough = len(parts["train"][1]) >= 2 * FEWEST_HELD_OUT
    crossed = isinstance(tuned.model, Probe) and not members and enough and prepared.classes is None
    judged = judge(tuned, parts, config, model, members, features, calibrate=not crossed)
    if crossed and isinstance(tuned.model, Probe):
        judged = _crossed(judged, tuned.model, prepared, config)
    judged.metrics["cost"]["saved_bytes"] = folder_bytes(run.path / MODEL)
    judged.metrics["cost"]["weights_bytes"] = folder_bytes(run.path / MODEL, ".safetensors")
    if judged.blend is not None:
        run.write_folder(BLENDED, judged.blend.save)
    if judged.confidence is not None:
        judged.confidence.save(run.path / INTERVALS)
    notes = prepared.notes
    if adapted is not None:
        judged.metrics["adaptation"] = {"part": adapted.part, **adapted.result.to_dict()}
        if config.adapt.transductive:
            notes.append(
                "Transductive: the encoder learnt from the SMILES of validation and test part, without their labels"
            )
    run.write_table(PREDICTIONS, predictions_table(prepared, judged))
    if tuned.refit is not None:
        words = refit_words(tuned.refit.to_dict(), unit=prepared.unit)
        notes.append(f"{words[0].upper()}{words[1:]}.")
    if config.evaluation.figures:
        run.write_folder(FIGURES, lambda folder: draw(folder, tuned, judged, prepared))
    write_report(
        run.path / REPORT,
        title=f"{prepared.target_name} with {config.model.name}, {config.method.name} fine-tuning",
        metrics=judged.metrics,
        figures={p.stem: p for p in sorted((run.path / FIGURES).glob("*.svg"))} if config.evaluation.figures else {},
        config={**settings_of(config), "provenance": run.provenance},
        notes=notes,
        data_summary=describe(prepared.molecules, prepared.split),
        unit=prepared.unit,
    )
    run.write_json(METRICS, judged.metrics)
    shutil.rmtree(run.path / CHECKPOINTS, ignore_errors=True)


def check_method(config: FinetuneConfig) -> None:
    """See whether the method takes its settings, and whether baselines, blend and features can be computed here.

    Raises:
        ConfigError: one of them is unknown, needs a package, or has a setting that is not its own.
    """
    make_method(config.method)
    check_bounds(config.method, config.data.bounds == "use")
    if config.model.weights == "random" and config.method.name != "full":
        raise ConfigError(
            f"{config.method.name} saves only what it changed, and random weights are in no checkpoint that it could "
            "be put on again: use --method full"
        )
    if config.method.name == PROBE:
        find_feature("+".join(config.method.probe.features))
    check_baselines(config.evaluation.baselines)
    check_members(config.prediction.blend)


@dataclass(frozen=True)
class Judged:
    """What a tuned model, its baselines and their blend predict, and what that is worth.

    Attributes:
        columns: column of ``predictions.csv`` → part → predictions, in the target's unit.
        metrics: the content of ``metrics.json``.
        blend: of model and baselines, where one was asked for.
        confidence: what goes with each prediction; None where there are too few training molecules.
    """

    columns: dict[str, dict[str, np.ndarray]]
    metrics: dict[str, Any]
    blend: Blend | None
    confidence: Confidence | None


def judge(
    tuned: Tuned,
    parts: Parts,
    config: FinetuneConfig,
    model: ModelSettings,
    members: Sequence[str] = (),
    features: Mapping[str, Featurizer] | None = None,
    *,
    calibrate: bool = True,
) -> Judged:
    """Predict every part, compare with the baselines on the test part, and blend with ``members``, where any are."""
    options: dict[str, Any] = {
        "bootstrap": config.evaluation.bootstrap,
        "confidence": config.evaluation.confidence,
        "seed": config.seed,
        "task": task_of(tuned.model.class_names),
    }
    wanted = [name for name in parts if name != "train" or config.evaluation.training_part or len(parts) == 1]
    found = {name: tuned.model.predict_with_spread(parts[name][0], config.training.eval_batch_size) for name in wanted}
    predicted = {name: values for name, (values, _) in found.items()}
    spread = {name: values for name, (_, values) in found.items()}
    metrics: dict[str, Any] = {
        name: evaluate(parts[name][1], predicted[name], **options)
        for name in ("test", "validation", "train")
        if name in predicted
    }
    names = [*baselines_of(config, len(parts["train"][1])), *members]
    table = FeatureTable({EMBEDDING: Encoder(model), **(features or {})})
    baselines = run_baselines(names, parts, features=table, make=make_member, **options)
    metrics["baselines"] = {name: result.to_dict() for name, result in baselines.items()}
    if "test" in parts:
        metrics["comparison"] = {
            name: compare_paired(parts["test"][1], predicted["test"], result.predictions["test"], **options)
            for name, result in baselines.items()
        }
    columns = {"predicted": predicted} | {f"predicted_{name}": one.predictions for name, one in baselines.items()}
    blend = None
    if members:
        blend, blended, metrics[BLEND] = make_blend(members, baselines, predicted, parts, **options)
        columns[f"predicted_{BLEND}"] = blended
    sources = {ALONE: predicted} | ({} if blend is None else {BLEND: blended})
    classes = tuned.model.class_names is not None
    confidence = _confidence(parts, sources, spread.get("validation"), classes) if calibrate else None
    if classes:
        metrics |= _of_classes(tuned, parts, sources, confidence)
    if confidence is not None and confidence.calibrations and "test" in parts:
        smiles, true = parts["test"]
        metrics["intervals"] = {
            name: confidence.judge(smiles, true, of["test"], name, spread["test"]) for name, of in sources.items()
        }
    metrics |= {
        "trainable_parameters": tuned.parameters.trainable,
        "total_parameters": tuned.parameters.total,
        "best_epoch": tuned.best_epoch,
        "epochs": len(tuned.history),
        "seconds": tuned.cost.seconds,
        "cost": tuned.cost.to_dict(),
    }
    if tuned.refit is not None:
        metrics["refit"] = tuned.refit.to_dict()
    return Judged(columns, metrics, blend, confidence)


def _confidence(
    parts: Parts, sources: Mapping[str, Mapping[str, np.ndarray]], spread: np.ndarray | None, classes: bool
) -> Confidence | None:
    """Learned from training and validation part; what was chosen on the latter is little beside its errors."""
    held_out = parts.get("validation", ([], np.empty(0)))
    predicted = {name: of["validation"] for name, of in sources.items() if "validation" in of}
    return Confidence.fit(parts["train"], held_out, predicted, spread, classes)


def _of_classes(
    tuned: Tuned, parts: Parts, sources: Mapping[str, Mapping[str, np.ndarray]], confidence: Confidence | None
) -> dict[str, Any]:
    """Entries of ``metrics.json`` that only classes have: names, and on the test part calibration, sets, confusion."""
    found: dict[str, Any] = {"classes": list(tuned.model.class_names or ())}
    if "test" not in parts:
        return found
    true = parts["test"][1]
    if tuned.calibrated is not None:
        found["calibration"] = tuned.calibrated.judge(true, sources[ALONE]["test"])
    found["reliability"] = {name: reliability(true, of["test"]) for name, of in sources.items()}
    found["confusion"] = {name: confusion(true, of["test"]) for name, of in sources.items()}
    if confidence is not None and confidence.sets:
        found["prediction_sets"] = {
            name: confidence.sets[name].judge(true, of["test"], LEVEL) for name, of in sources.items()
        }
    return found


def _crossed(judged: Judged, probe: Probe, prepared: Prepared, config: FinetuneConfig) -> Judged:
    """A probe is quickly fitted again without some of its molecules, which tells more errors than a validation part."""
    parts = prepared.parts
    smiles, target = parts["train"]
    keys = prepared.molecules.table["inchikey"].to_numpy()[prepared.split.train].tolist()
    found = cross_validate(probe, smiles, target, keys, config.seed)
    metrics, columns, intervals = dict(judged.metrics), dict(judged.columns), found.intervals
    if set(parts) == {"train"}:
        options: dict[str, Any] = {"bootstrap": config.evaluation.bootstrap, "confidence": config.evaluation.confidence}
        own = evaluate(target, found.predicted, seed=config.seed, **options)
        metrics = {CROSS_VALIDATION: own, **metrics}
        columns["predicted_out_of_fold"] = {"train": found.predicted}
    elif "test" in parts:
        intervals = found.confidence.judge(*parts["test"], columns["predicted"]["test"], ALONE)
    if intervals:
        metrics["intervals"] = {ALONE: intervals}
    return Judged(columns, metrics, judged.blend, found.confidence)


def predictions_table(prepared: Prepared, judged: Judged) -> pd.DataFrame:
    """One line per molecule in table order: smiles, split, true, predicted, baselines, blend, as there are."""
    table = pd.DataFrame({"smiles": prepared.molecules.smiles})
    table["split"] = prepared.split.to_frame(prepared.molecules)["split"]
    table["true"] = prepared.molecules.target
    for column, values in judged.columns.items():
        table[column] = np.nan
        for name, positions in prepared.split.parts().items():
            if name in values:
                table.loc[positions, column] = values[name]
    return prepared.mark_added(table)


def _shown(parts: Parts, columns: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, str]:
    """Measured and predicted values for figures, with their title: the blend's where there is one, of the test part."""
    part = next(part for part in ("test", "validation", "train") if part in parts)
    column = next(name for name in ("predicted_out_of_fold", f"predicted_{BLEND}", "predicted") if name in columns)
    true, title = parts[part][1], "cross-validation" if column == "predicted_out_of_fold" else f"{part} part"
    return true, columns[column][part], f"{title}, {len(true)} molecules"


def draw(folder: Path, tuned: Tuned, judged: Judged, prepared: Prepared) -> None:
    """Draw the run's figures into ``folder``."""
    chosen = tuned.best_epoch if tuned.history["validation_loss"].notna().any() else None
    if len(tuned.history):
        loss = "MSE / training variance" if prepared.classes is None else "Cross-entropy"
        loss = "Mean loss of all properties" if prepared.beside else loss
        loss_curves(tuned.history, chosen, folder / "loss_curves", loss=loss)
    true, predicted, title = _shown(prepared.parts, judged.columns)
    if prepared.classes is not None:
        if np.ptp(true) > 0:
            roc_curve(true, predicted, folder / "roc_curve", title)
            precision_recall(true, predicted, folder / "precision_recall", title)
        reliability_curve(true, predicted, folder / "reliability", title)
        confusion_matrix(true, predicted, prepared.classes, folder / "confusion_matrix", title)
        return
    labels = {"unit": prepared.unit, "title": title, "target": prepared.target_name}
    true_against_predicted(true, predicted, folder / "true_against_predicted", **labels)
    residual_histogram(true, predicted, folder / "residual_histogram", **labels)
    intervals = intervals_shown(judged.metrics)
    if intervals:
        calibration_curve(intervals["curve"], intervals["molecules"], folder / "calibration_curve")
