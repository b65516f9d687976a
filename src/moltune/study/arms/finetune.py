"""Arms that fine-tune a language model, with any settings of :class:`moltune.config.FinetuneConfig`."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from moltune.config import FinetuneConfig, PredictionSettings, Settings, make_config
from moltune.data.splitting.split import Split, write_index_file
from moltune.errors import ConfigError, RunFolderError
from moltune.features.registry import EMBEDDING
from moltune.overrides import set_nested
from moltune.study.arms import steps
from moltune.study.arms.base import ArmKind, Outcome, Step, Workbench
from moltune.study.recipe.protocol import Block
from moltune.study.recipe.recipe import ArmSpec, Recipe

logger = logging.getLogger(__name__)

# The study decides these, so that all arms get the same.
_OF_THE_STUDY = ("data", "split", "seed", "output", "evaluation")
_METRICS_OF_PARTS = ("test", "validation", "train", "baselines", "comparison", "blend")


class FinetuneOptions(Settings):
    """Settings that differ from the defaults."""

    settings: dict[str, Any] = Field(
        default_factory=dict, description="as in a fine-tuning YAML file, nested or dotted (training.epochs: 5)"
    )
    keep_model: bool = Field(False, description="keep the tuned weights of every run")


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
        from moltune.predictors.members import check_members
        from moltune.tuning.finetune import check_method

        config = self.config(arm, recipe)
        check_method(config)
        check_members(config.prediction.blend)
        steps.check_model(config.model)

    def config(self, arm: ArmSpec, recipe: Recipe) -> FinetuneConfig:
        """The arm's settings on top of the recipe's model and the defaults.

        Raises:
            ConfigError: a setting is wrong, or belongs to the study.
        """
        # An arm is a language model alone, unless it says otherwise.
        values: dict[str, Any] = {"model": recipe.model.model_dump(mode="json"), "prediction": {"blend": []}}
        try:
            _merge(values, self.options(arm).settings)
            for name in _OF_THE_STUDY:
                if name in values:
                    raise ConfigError(f"{name} is the same for all arms; set it at the top level of the recipe")
            return make_config(values)
        except ConfigError as error:
            raise ConfigError(f"arm {arm.name!r}: {error}") from None

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """All settings that are the arm's own, and a digest of the weights it starts from."""
        config = self.config(arm, recipe)
        return {
            "settings": recorded_settings(config),
            "weights": steps.weights_digest(config.model.name),
            "_keep_model": self.options(arm).keep_model,
        }

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """The adaptation of the encoder, and the features of a blend's baselines."""
        config = self.config(arm, recipe)
        needed = [steps.feature_step(name) for name in _features_of(config.prediction.blend or [])]
        if config.adapt.objective != "none":
            needed.append(steps.adaptation_step(config, recipe.protocol, block))
        return needed

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Fine-tune in the scratch folder, going on where a killed run stopped."""
        from moltune.tuning.finetune import finetune

        output = bench.folder / "run"
        values = run_values(specification["settings"], bench, split, seed, output)
        values["data"].update(specification.get("_data", {}))
        adapted = steps.adapted_checkpoint(bench)
        if adapted is not None:
            started = {"name": str(adapted[0]), "revision": None, "weights": "pretrained"}
            values |= {"model": {**values["model"], **started}, "adapt": {"objective": "none"}}
        config = make_config(values)
        features = steps.shared_features(bench)
        try:
            run = finetune(config, molecules=bench.molecules, resume=True, features=features)
        except RunFolderError as error:
            # The study folder was moved, or the thread count changed: what is left there cannot be trusted.
            logger.warning("%s; the run starts again", error)
            shutil.rmtree(output)
            run = finetune(config, molecules=bench.molecules, features=features)
        predictions = run.predictions.assign(row=run.splits["row"].to_numpy()).rename(columns={"split": "part"})
        facts = {name: value for name, value in run.metrics.items() if name not in _METRICS_OF_PARTS}
        facts["training_seconds"] = facts.pop("seconds", None)
        if config.prediction.blend:
            predictions["predicted"] = predictions["predicted_blend"]
            facts["blend_weights"] = run.metrics["blend"]["weights"]
        if adapted is not None:
            facts["adaptation"] = adapted[1]
        facts |= {name: value for name, value in facts.pop("cost", {}).items() if name != "seconds"}
        kept = predictions.loc[predictions["part"].isin(["validation", "test"]), ["row", "part", "predicted"]]
        models = {"model": run.model_path} if specification["_keep_model"] else {}
        return Outcome(kept.reset_index(drop=True), facts, run.history, models)


def recorded_settings(config: FinetuneConfig) -> dict[str, Any]:
    """The settings that decide a run's result, as its specification holds them.

    Specifications outlive versions: settings that came later are left out at their defaults, and those that are gone
    keep the value that stood for "off", so that runs made before are still found.
    """
    settings = config.model_dump(mode="json", exclude=set(_OF_THE_STUDY))
    # These two change files and speed, not results.
    del settings["training"]["threads"], settings["training"]["report_to"]
    default = FinetuneConfig()
    if config.model.weights == default.model.weights:
        del settings["model"]["weights"]
    off = {"adapt": default.adapt, "prediction": PredictionSettings(blend=[])}
    later = {name: steps.recorded(getattr(config, name)) for name in off}
    kept = {name: values for name, values in later.items() if getattr(config, name) != off[name]}
    return {name: value for name, value in settings.items() if name not in later} | kept


def run_values(settings: Mapping[str, Any], bench: Workbench, split: Split, seed: int, output: Path) -> dict[str, Any]:
    """Settings of a fine-tuning run on the molecules of a study; its parts are written into the bench's scratch."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    index = write_index_file(bench.molecules, split, bench.folder / "split.json")
    return {
        "prediction": {"blend": []},
        **settings,
        "training": {**settings["training"], "threads": bench.threads},
        "data": {"source": str(bench.molecules.provenance.get("source"))},
        "split": {"method": "index", "index_file": str(index)},
        "seed": seed,
        "output": str(output),
        "evaluation": {"baselines": [], "figures": False, "bootstrap": 0, "training_part": False},
    }


def _features_of(members: Sequence[str]) -> list[str]:
    """Features that the members of a blend share with other runs; embeddings are computed where they are needed."""
    from moltune.predictors.members import make_member

    names = (name for member in members for name in make_member(member).columns.split("+"))
    return [name for name in dict.fromkeys(names) if name not in ("", EMBEDDING)]


def _merge(values: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Put nested or dotted settings into nested values."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            group = values.setdefault(name, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{name} is a value, not a group of settings")
            _merge(group, value)
        else:
            set_nested(values, str(name), value)
