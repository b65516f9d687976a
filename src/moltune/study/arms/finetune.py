"""Arms that fine-tune a language model, with any settings of :class:`moltune.config.FinetuneConfig`."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from moltune.config import FinetuneConfig, Settings, make_config
from moltune.data.splitting.split import Split, write_index_file
from moltune.errors import CheckpointError, ConfigError, RunFolderError
from moltune.features.registry import DESCRIPTORS_AND_COUNTS, EMBEDDING
from moltune.overrides import set_nested
from moltune.reports.summary import is_probe_name
from moltune.study.arms.adaptation_steps import adaptation_step, adapted_checkpoint
from moltune.study.arms.base import ArmKind, ArmSpec, ArmUnavailable, Outcome, Step, Workbench, register_kind
from moltune.study.arms.feature_steps import feature_step, row_lookup
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import Recipe

logger = logging.getLogger(__name__)

# The study decides these, so that all arms get the same.
_OF_THE_STUDY = ("data", "split", "seed", "output", "evaluation")
# They move files and clocks, not results.
_WITHOUT_EFFECT = ("threads", "report_to")
_METRICS_OF_PARTS = ("test", "validation", "train", "baselines", "comparison", "blend")
# Settings that came later: at their defaults they are left out, so that runs made before them are still found.
_LATER = ("adapt", "prediction", "model.weights", "training.augment")


class FinetuneOptions(Settings):
    """Settings that differ from the defaults."""

    settings: dict[str, Any] = Field(
        default_factory=dict, description="as in a fine-tuning YAML file, nested or dotted (training.epochs: 5)"
    )
    keep_model: bool = Field(False, description="keep the tuned weights of every run")


@register_kind
class FinetuneKind(ArmKind):
    """One fine-tuning run per block; an interrupted one goes on from its last epoch.

    With ``prediction.blend`` the arm's predictions are the blend's.
    """

    name = "finetune"
    description = "a fine-tuned language model"
    Options: ClassVar[type[Settings]] = FinetuneOptions
    tunes_model = True
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "rdkit", "torch", "transformers", "peft")

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError for a wrong setting or method, ArmUnavailable where the model is not there."""
        from moltune.models.checkpoints import load_config
        from moltune.predictors.members import check_members
        from moltune.tuning.finetune import check_method

        config = self.config(arm, recipe)
        check_method(config)
        check_members(config.prediction.blend)
        try:
            load_config(config.model.name, config.model.revision)
        except CheckpointError as error:
            raise ArmUnavailable(str(error)) from None

    def config(self, arm: ArmSpec, recipe: Recipe) -> FinetuneConfig:
        """The arm's settings on top of the recipe's model and the defaults.

        Raises:
            ConfigError: a setting is wrong, or belongs to the study.
        """
        values: dict[str, Any] = {"model": recipe.model.model_dump(mode="json")}
        _merge(values, self.options(arm).settings)
        taken = [name for name in _OF_THE_STUDY if name in values]
        if taken:
            raise ConfigError(
                f"arm {arm.name!r}: {taken[0]} is the study's, the same for all arms; set it at the recipe's top level"
            )
        try:
            return make_config(values)
        except ConfigError as error:
            raise ConfigError(f"arm {arm.name!r}: {error}") from None

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """All settings that are the arm's own, and a digest of the weights it starts from."""
        config = self.config(arm, recipe)
        settings = config.model_dump(mode="json", exclude=set(_OF_THE_STUDY))
        for name in _WITHOUT_EFFECT:
            settings["training"].pop(name)
        _leave_out_defaults(settings)
        return {
            "settings": settings,
            "weights": weights_digest(config.model.name),
            "_keep_model": self.options(arm).keep_model,
        }

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """The adaptation of the encoder, and the features of a blend's baselines."""
        config = self.config(arm, recipe)
        steps = [feature_step(name) for name in _features_of(config.prediction.blend)]
        if config.adapt.objective != "none":
            steps.append(adaptation_step(config, recipe, block, weights_digest(config.model.name)))
        return steps

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Fine-tune in the scratch folder, going on where a killed run stopped."""
        from moltune.tuning.finetune import finetune

        bench.folder.mkdir(parents=True, exist_ok=True)
        index = write_index_file(bench.molecules, split, bench.folder / "split.json")
        values = {
            **specification["settings"],
            "data": {"source": str(bench.molecules.provenance.get("source")), **specification.get("_data", {})},
            "split": {"method": "index", "index_file": str(index)},
            "seed": seed,
            "output": str(bench.folder / "run"),
            "evaluation": {"baselines": [], "figures": False, "bootstrap": 0, "training_part": False},
        }
        values["training"] = {**values["training"], "threads": bench.threads}
        adapted = adapted_checkpoint(bench)
        if adapted is not None:
            started = {"name": str(adapted[0]), "revision": None, "weights": "pretrained"}
            values |= {"model": {**values["model"], **started}, "adapt": {"objective": "none"}}
        config = make_config(values)
        features = {name: row_lookup(bench, name) for name in _features_of(config.prediction.blend)}
        try:
            run = finetune(config, molecules=bench.molecules, resume=True, features=features)
        except RunFolderError as error:
            # The study folder was moved, or the thread count changed: what is left there cannot be trusted.
            logger.warning("%s; the run starts again", error)
            shutil.rmtree(bench.folder / "run")
            run = finetune(config, molecules=bench.molecules, features=features)
        predictions = run.predictions.assign(row=run.splits["row"].to_numpy())
        predictions = predictions.rename(columns={"split": "part"})
        if config.prediction.blend:
            predictions["predicted"] = predictions["predicted_blend"]
        kept = predictions.loc[predictions["part"].isin(["validation", "test"]), ["row", "part", "predicted"]]
        facts = {name: value for name, value in run.metrics.items() if name not in _METRICS_OF_PARTS}
        facts["training_seconds"] = facts.pop("seconds", None)
        if config.prediction.blend:
            facts["blend_weights"] = run.metrics["blend"]["weights"]
        if adapted is not None:
            facts["adaptation"] = adapted[1]
        cost = facts.pop("cost", {})
        facts |= {name: value for name, value in cost.items() if name != "seconds"}
        models = {"model": run.model_path} if specification["_keep_model"] else {}
        return Outcome(kept.reset_index(drop=True), facts, run.history, models)


def _features_of(members: Sequence[str]) -> list[str]:
    """Features that the members of a blend share with other runs; embeddings are computed where they are needed."""
    from moltune.predictors.members import probe_settings

    names: list[str] = []
    for member in members:
        if is_probe_name(member):
            names += [feature for feature in probe_settings(member).features if feature != EMBEDDING]
        elif member != "mean":
            names.append(DESCRIPTORS_AND_COUNTS)
    return list(dict.fromkeys(names))


def _leave_out_defaults(settings: dict[str, Any]) -> None:
    defaults = FinetuneConfig().model_dump(mode="json")
    for name in _LATER:
        group, _, setting = name.partition(".")
        here, there = (settings[group], defaults[group]) if setting else (settings, defaults)
        if here[setting or group] == there[setting or group]:
            del here[setting or group]


def _merge(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            group = values.setdefault(name, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{name} is a value, not a group of settings")
            _merge(group, value)
        else:
            set_nested(values, str(name), value)


@cache
def weights_digest(name: str) -> str | None:
    """SHA-256 over the files of a local checkpoint; None for a hub id, whose revision is in the settings."""
    from moltune.models.checkpoints import resolve

    folder = Path(resolve(name))
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*")):
        if path.suffix in (".json", ".safetensors", ".txt"):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
