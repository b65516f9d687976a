"""One run: molecules → split → tuned model → evaluation beside baselines → run folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moltune.baselines.compare import BaselineResult, run_baselines
from moltune.config import FinetuneConfig, ModelSettings, make_config
from moltune.data.describe import describe
from moltune.data.load import load_molecules, reason_counts
from moltune.data.molecules import Molecules
from moltune.data.splitting.leakage import Leakage, check_leakage
from moltune.data.splitting.split import Split, make_split
from moltune.errors import ConfigError
from moltune.evaluation.metrics import compare_paired, evaluate
from moltune.features.embedding import Encoder
from moltune.features.registry import EMBEDDING, FeatureTable, Featurizer, find_feature
from moltune.models.methods.registry import make_method
from moltune.predictors.blend import BLEND, Blend, judge_blend, make_blend
from moltune.predictors.blend import MODEL as LANGUAGE_MODEL
from moltune.predictors.members import baselines_of, check_baselines, check_members, make_member
from moltune.pretraining.adapt import adapt_run
from moltune.reports.figures import loss_curves, residual_histogram, true_against_predicted
from moltune.reports.run_page import write_report
from moltune.reports.summary import refit_words
from moltune.run import (
    BLENDED,
    CHECKPOINTS,
    FIGURES,
    HISTORY,
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
from moltune.tuning.additions import add_molecules, added_words, mark_added
from moltune.tuning.cost import folder_bytes
from moltune.tuning.fit import PROBE, reads_tokens, tune_model
from moltune.tuning.loop import EpochReport, check_settings, remove_checkpoints
from moltune.tuning.train import Tuned, unfit_molecules

logger = logging.getLogger(__name__)

Parts = dict[str, tuple[list[str], np.ndarray]]


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
        features: by name, computed elsewhere: ``rdkit+morgan`` for the baselines, others for probes of a blend.

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
    if resume and overwrite:
        raise ConfigError("resume goes on with a run and overwrite deletes it: say one of the two")
    if config.data.source is None:
        raise ConfigError("data.source is missing: name a file, a bundled set or a Hugging Face dataset")
    check_baselines(config.evaluation.baselines)
    check_members(config.prediction.blend)
    check_method(config)
    check_settings(config.training)
    path = config.output or default_output(config)
    prepared = prepare(config, molecules)
    if config.prediction.blend and not len(prepared.split.validation):
        raise ConfigError("prediction.blend chooses its weights on the validation part; give the split one")
    run = start_run(path, config, prepared.provenance, resume=resume, overwrite=overwrite)
    if run.finished:
        logger.info("%s holds the finished run already", run.path)
        return run
    run.write_table(SPLITS, mark_added(prepared.split.to_frame(prepared.molecules), prepared.molecules))
    run.write_table(REJECTS, prepared.molecules.rejected)

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
        report=report,
        log_folder=run.path / "logs" if config.training.report_to else None,
    )
    run.write_table(HISTORY, tuned.history)
    run.write_folder(MODEL, tuned.model.save)
    judged = judge(tuned, parts, config, model, features)
    judged.metrics["cost"]["saved_bytes"] = folder_bytes(run.path / MODEL)
    judged.metrics["cost"]["weights_bytes"] = folder_bytes(run.path / MODEL, ".safetensors")
    if judged.blend is not None:
        run.write_folder(BLENDED, judged.blend.save)
    if adapted is not None:
        judged.metrics["adaptation"] = {"part": adapted.part, **adapted.result.to_dict()}
    run.write_table(PREDICTIONS, predictions_table(prepared, judged))
    notes = warnings_for(prepared)
    if config.adapt.objective != "none" and config.adapt.transductive:
        notes.append(
            "Transductive: the encoder learnt from the SMILES of validation and test part, without their labels"
        )
    if tuned.refit is not None:
        words = refit_words(tuned.refit.to_dict(), unit=prepared.unit)
        notes.append(f"{words[0].upper()}{words[1:]}.")
    if config.evaluation.figures:
        run.write_folder(FIGURES, lambda folder: draw(folder, tuned, parts, judged, prepared))
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
    remove_checkpoints(run.path / CHECKPOINTS)
    return run


def check_method(config: FinetuneConfig) -> None:
    """See whether the method exists and goes together with the other settings.

    Raises:
        ConfigError: it does not.
    """
    make_method(config.method)
    if config.model.weights == "random" and config.method.name != "full":
        raise ConfigError(
            f"{config.method.name} saves only what it changed, and random weights are in no checkpoint that it could "
            "be put on again: use --method full"
        )
    if config.method.name == PROBE:
        find_feature("+".join(config.method.probe.features))


@dataclass(frozen=True)
class Prepared:
    """Clean, readable, divided molecules.

    Attributes:
        molecules: those that the model can read.
        split: their parts.
        leakage: what the parts share.
        added: provenance of molecules added to the training part; None: there are none.
    """

    molecules: Molecules
    split: Split
    leakage: Leakage
    added: dict[str, Any] | None = None

    @property
    def parts(self) -> Parts:
        """SMILES and targets of each part that has molecules."""
        smiles, target = np.array(self.molecules.smiles, dtype=object), self.molecules.target
        return {
            name: (smiles[positions].tolist(), target[positions])
            for name, positions in self.split.parts().items()
            if len(positions)
        }

    @property
    def target_name(self) -> str:
        """Column of the target."""
        return str(self.molecules.provenance.get("target_column") or "target")

    @property
    def unit(self) -> str:
        """Unit of the target, where the source knows it."""
        return str(self.molecules.provenance.get("unit") or "")

    @property
    def provenance(self) -> dict[str, Any]:
        """What ``config.yaml`` keeps of the data."""
        molecules = self.molecules
        return {
            "data": molecules.provenance,
            "rows": {"in": molecules.rows_in, "kept": len(molecules), "rejected": len(molecules.rejected)},
            "split": self.split.settings,
            "leakage": self.leakage.to_dict(),
            **({} if self.added is None else {"added": self.added}),
        }


def prepare(config: FinetuneConfig, molecules: Molecules | None = None) -> Prepared:
    """Load and clean unless that is done, check against the model, and split."""
    molecules = load_molecules(None, config.data) if molecules is None else molecules
    unfit = unfit_molecules(molecules.smiles, config.model) if reads_tokens(config.method) else {}
    if unfit:
        logger.warning("%d molecules left out that %s cannot read; see rejects.csv", len(unfit), config.model.name)
    molecules = molecules.reject(unfit)
    split = make_split(molecules, config.split, config.split_seed)
    molecules, split, added = add_molecules(molecules, split, config.data, config.model)
    leakage = check_leakage(molecules, split)
    for words in leakage.words:
        logger.warning(words)
    return Prepared(molecules, split, leakage, added)


@dataclass(frozen=True)
class Judged:
    """Predictions of the model and of the baselines, and what they are worth.

    Attributes:
        predicted: part → predictions of the model, in the target's unit.
        baselines: results by name.
        metrics: the content of ``metrics.json``.
        blend: of model and baselines, where one was asked for.
        blended: part → its predictions.
    """

    predicted: dict[str, np.ndarray]
    baselines: dict[str, BaselineResult]
    metrics: dict[str, Any]
    blend: Blend | None
    blended: dict[str, np.ndarray]


def judge(
    tuned: Tuned,
    parts: Parts,
    config: FinetuneConfig,
    model: ModelSettings,
    features: Mapping[str, Featurizer] | None = None,
) -> Judged:
    """Predict every part, compare with the baselines on the test part, and blend if that was asked for."""
    options: dict[str, Any] = {
        "bootstrap": config.evaluation.bootstrap,
        "confidence": config.evaluation.confidence,
        "seed": config.seed,
    }
    batch = config.training.eval_batch_size
    wanted = [name for name in parts if name != "train" or config.evaluation.training_part or set(parts) == {"train"}]
    predicted = {name: tuned.model.predict(parts[name][0], batch) for name in wanted}
    metrics: dict[str, Any] = {
        name: evaluate(parts[name][1], predicted[name], **options)
        for name in ("test", "validation", "train")
        if name in predicted
    }
    names = [*baselines_of(config), *config.prediction.blend]
    table = FeatureTable({EMBEDDING: Encoder(model), **(features or {})})
    baselines = run_baselines(names, parts, features=table, make=make_member, **options)
    metrics["baselines"] = {name: result.to_dict() for name, result in baselines.items()}
    if "test" in parts:
        metrics["comparison"] = {
            name: compare_paired(parts["test"][1], predicted["test"], result.predictions["test"], **options)
            for name, result in baselines.items()
        }
    blend: Blend | None = None
    blended: dict[str, np.ndarray] = {}
    if config.prediction.blend:
        members = {LANGUAGE_MODEL: predicted, **{name: result.predictions for name, result in baselines.items()}}
        validation = {name: found["validation"] for name, found in members.items()}
        fitted = {name: result.baseline for name, result in baselines.items()}
        blend = make_blend(config.prediction.blend, fitted, validation, parts["validation"][1])
        blended, metrics[BLEND] = judge_blend(blend, {name: parts[name] for name in wanted}, members, **options)
    metrics["trainable_parameters"] = tuned.parameters.trainable
    metrics["total_parameters"] = tuned.parameters.total
    metrics["best_epoch"] = tuned.best_epoch
    metrics["epochs"] = len(tuned.history)
    metrics["seconds"] = round(tuned.seconds, 3)
    metrics["cost"] = tuned.cost.to_dict()
    if tuned.refit is not None:
        metrics["refit"] = tuned.refit.to_dict()
    return Judged(predicted, baselines, metrics, blend, blended)


def predictions_table(prepared: Prepared, judged: Judged) -> pd.DataFrame:
    """One line per molecule in table order: smiles, split, true, predicted, baselines, blend, as there are."""
    table = pd.DataFrame({"smiles": prepared.molecules.smiles})
    table["split"] = prepared.split.to_frame(prepared.molecules)["split"]
    table["true"] = prepared.molecules.target
    columns = {"predicted": judged.predicted}
    columns |= {f"predicted_{name}": result.predictions for name, result in judged.baselines.items()}
    columns |= {f"predicted_{BLEND}": judged.blended} if judged.blended else {}
    for column, values in columns.items():
        table[column] = np.nan
        for name, positions in prepared.split.parts().items():
            if name in values:
                table.loc[positions, column] = values[name]
    return mark_added(table, prepared.molecules)


def draw(folder: Path, tuned: Tuned, parts: Parts, judged: Judged, prepared: Prepared) -> None:
    """Draw the run's figures into ``folder``."""
    chosen = tuned.best_epoch if tuned.history["validation_loss"].notna().any() else None
    if len(tuned.history):
        loss_curves(tuned.history, chosen, folder / "loss_curves", loss="MSE / training variance")
    shown = "test" if "test" in parts else "validation" if "validation" in parts else "train"
    labels = {"unit": prepared.unit, "target": prepared.target_name}
    true, predicted = parts[shown][1], judged.predicted[shown]
    title = f"{shown} part, {len(true)} molecules"
    true_against_predicted(true, predicted, folder / "true_against_predicted", title=title, **labels)
    residual_histogram(true, predicted, folder / "residual_histogram", title=title, **labels)


def warnings_for(prepared: Prepared) -> list[str]:
    """What the reader of the report should know about the data."""
    molecules = prepared.molecules
    notes = [f"{count} rows left out: {reason}" for reason, count in reason_counts(molecules).items()]
    if len(molecules.conflicts):
        notes.append(f"{len(molecules.conflicts)} molecules were measured more than once with labels that disagree")
    return notes + added_words(prepared.added) + prepared.leakage.words


def default_output(config: FinetuneConfig) -> Path:
    """``runs/<data>-<model>-<method>-seed<seed>``."""
    source = Path(str(config.data.source)).name.split(".")[0]
    model = Path(config.model.name).name
    name = f"{source}-{model}-{config.method.name}-seed{config.seed}"
    return Path("runs") / re.sub(r"[^\w.-]+", "-", name)
