"""Arms that add selected molecules of the recipe's external data to the training part, and fine-tune on both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import Field

from moltune.config import (
    DataSettings,
    InfluenceSettings,
    SelectSettings,
    UncertaintySettings,
    make_config,
    make_settings,
)
from moltune.data.classes import CLASSES
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.data.overlap import exclude_held_out
from moltune.data.reading.write import write_table
from moltune.data.splitting.split import Split
from moltune.errors import ConfigError
from moltune.study.arms.base import Outcome, Step, Workbench
from moltune.study.arms.finetune import FinetuneKind, FinetuneOptions, run_values
from moltune.study.recipe.protocol import Block, Protocol
from moltune.study.recipe.recipe import ArmSpec, Recipe

SELECTION, TABLE = "selection", "selection.csv"
_OF_CLASSES = ("entropy", "bald")
_NEEDS_SCORES = ("influence", "influence-reversed", "uncertainty", "residual", *_OF_CLASSES)
_AMOUNTS = ("count", "percentile", "threshold")
# Strategy of a control -> label, why it is there.
_CONTROLS = {
    "random": (
        "As many at random",
        "as many molecules at random: a selection that does not beat it has selected nothing",
    ),
    "influence-reversed": (
        "Influence reversed, as many",
        "as many molecules from the other end: a score that means something must beat it",
    ),
    "all": ("All external molecules", "every external molecule: shows whether selecting helps at all"),
    "none": ("No external molecule", "no external molecule: shows whether adding helps at all"),
}


class SelectionOptions(FinetuneOptions):
    """What is selected, how the scores are computed, and the settings of the fine-tuning."""

    strategy: str = Field(
        description="influence, influence-reversed, uncertainty, entropy, bald, random, similarity, all, none ..."
    )
    count: int | None = Field(None, ge=0)
    percentile: float | None = Field(None, ge=0, le=100)
    threshold: float | None = None
    convention: str = Field("negative-helps", pattern="^(negative|positive)-helps$")
    clusters: int = Field(10, ge=1)
    influence: dict[str, Any] = Field(default_factory=dict, description="settings of `moltune influence`")
    passes: int = Field(30, ge=2, description="of Monte-Carlo dropout")
    scored_by: str | None = Field(
        None, description="selection arm whose model gives the scores, where this arm tunes another one; unset: its own"
    )


class SelectionKind(FinetuneKind):
    """Scores come from a model tuned on the same split and seed without any addition, once for all arms.

    Molecules that the validation or test part of the split holds are excluded from every arm.
    """

    name = "selection"
    description = "a fine-tuned language model with selected external molecules"
    Options = SelectionOptions
    libraries = ("numpy", "rdkit", "scikit-learn", "torch", "transformers", "peft")
    uses_external = True

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError where there are no external data, or the amount does not fit the strategy."""
        if recipe.external is None or recipe.external.source is None:
            raise ConfigError(
                f"arm {arm.name!r} selects from external data, and the recipe names none: give `--external FILE`, or "
                "external: {source: FILE} in the recipe"
            )
        options = self.options(arm)
        _select_settings(options)
        if "convention" in options.influence:
            raise ConfigError(f"arm {arm.name!r}: convention is a setting of the arm, not of influence")
        if recipe.classes is None and options.strategy in _OF_CLASSES:
            raise ConfigError(f"arm {arm.name!r}: {options.strategy} is of two classes, and the target is a number")
        scorer = self._scorer(arm, recipe)
        if scorer.kind != self.name or self.options(scorer).scored_by is not None:
            raise ConfigError(
                f"arm {arm.name!r}: scored_by must name a selection arm that has its own scores, not {scorer.name!r}"
            )
        _influence_settings(self.options(scorer))
        super().check(arm, recipe)

    def controls(self, recipe: Recipe) -> list[ArmSpec]:
        """A selection is compared with as many at random, with its reverse, with all and with none."""
        arms = [arm for arm in recipe.arms if arm.kind == self.name and not arm.control]
        strategies = [arm.options.get("strategy") for arm in arms]
        selecting = [arm for arm in arms if arm.options.get("strategy") not in _CONTROLS]
        if not selecting:
            return []
        first = next((arm for arm in selecting if arm.options.get("strategy") == "influence"), selecting[0])
        controls = []
        for strategy, (label, reason) in _CONTROLS.items():
            if strategy in strategies or (strategy == "influence-reversed" and "influence" not in strategies):
                continue
            # A threshold on scores means nothing at random.
            dropped = {"random": ("threshold",), "influence-reversed": ()}.get(strategy, _AMOUNTS)
            options = {name: value for name, value in first.options.items() if name not in dropped}
            if strategy == "random" and not {"count", "percentile"} & options.keys():
                continue
            options["strategy"] = strategy
            control = ArmSpec(name=f"add-{strategy}", kind=self.name, label=label, control=reason, **options)
            controls.append(control)
        return controls

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """The fine-tuning's, what is selected, and a digest of the external molecules."""
        options, external = self.options(arm), _external(recipe)
        # Only a random selection depends on the seed.
        seed = block.seed if options.strategy == "random" else 0
        return {
            **super().specification(arm, recipe, block),
            "select": _select_settings(options).model_copy(update={"seed": seed}).model_dump(mode="json"),
            "external": external_digest(external),
            "_external": external,
            "_block": block.name,
        }

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """The fine-tuning's, and scores of all external molecules on this block where the strategy needs them."""
        steps = super().steps(arm, recipe, block)
        if self.options(arm).strategy not in _NEEDS_SCORES:
            return steps
        scorer, external = self._scorer(arm, recipe), _external(recipe)
        options, tuned = self.options(scorer), super().specification(scorer, recipe, block)
        specification = {
            "settings": tuned["settings"],
            "weights": tuned["weights"],
            # Halves change what is said of the scores, not the scores.
            "influence": _influence_settings(options).model_dump(mode="json", exclude={"halves"}),
            "passes": options.passes,
            "protocol": recipe.protocol.model_dump(mode="json", exclude={"name", "note"}),
            "block": block.model_dump(mode="json"),
            "external": external_digest(external),
            "_external": external,
        }
        function = "compute_scores"
        recorded = f"moltune.study.kinds.selection:{function}"
        return [*steps, Step(f"scores {block.name}", specification, f"{__name__}:{function}", recorded)]

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Select, then fine-tune with the selected molecules added."""
        from moltune.selection.strategies import candidates_from, choose

        molecules = external_molecules(specification["_external"])
        settings = SelectSettings.model_validate(specification["select"])
        table = pd.DataFrame({"row": molecules.table["row"].to_numpy(), "smiles": molecules.smiles})
        step = f"scores {specification['_block']}"
        if step in bench.needs:
            # Molecules that the model cannot read have no scores and are no candidates.
            scores = {name: np.array(bench.array(step, name)) for name in ("row", *_scores(bench.molecules))}
            table = table.merge(pd.DataFrame(scores), on="row")
            if settings.convention == "positive-helps":
                # One set of scores serves both conventions, which differ in the sign alone.
                table["score"] = -table["score"]
            kept = set(table["row"])
            unread = {i: "not scored" for i, row in enumerate(molecules.table["row"]) if row not in kept}
            molecules = molecules.reject(unread)
        parts = split.to_frame(bench.molecules)["split"].to_numpy(dtype=object)
        candidates, excluded = exclude_held_out(molecules, bench.molecules, parts)
        table = table.set_index("row").loc[candidates.table["row"]].reset_index()
        reference = [bench.molecules.smiles[at] for at in split.validation]
        chosen = choose(candidates_from(table, reference=reference), settings)
        place = bench.folder / SELECTION
        place.mkdir(parents=True, exist_ok=True)
        is_chosen = np.isin(np.arange(len(table)), chosen)
        write_table(table.drop(columns="smiles").assign(selected=is_chosen), place / TABLE)
        added: dict[str, Any] = {}
        if len(chosen):
            picked = candidates.table[["smiles"]].assign(**candidates.labels()).iloc[chosen][["smiles", "label"]]
            added["add"] = str(write_table(picked, bench.folder / "selected.csv"))
        outcome = super().run({**specification, "_data": added}, split, seed, bench)
        facts = {**outcome.facts, "candidates": len(candidates), "added": len(chosen), "excluded": len(excluded)}
        return Outcome(outcome.predictions, facts, outcome.history, {**outcome.kept, SELECTION: place})

    def draw(self, runs: Mapping[str, Mapping[str, Path]], recipe: Recipe, folder: Path) -> dict[str, Path]:
        """Influence scores with the threshold of the first arm that selects by them, sorted uncertainties (both on
        the first block), and whether the scores of different blocks agree.
        """
        from moltune.study.arms.agreement import agreement, agreement_figure, agreement_words
        from moltune.uncertainty.report import sorted_scores

        blocks = {block.name: block for block in recipe.protocol.blocks()}
        first: dict[str, tuple[ArmSpec, pd.DataFrame]] = {}
        scored: dict[str, pd.DataFrame] = {}
        for arm in (recipe.arm(name) for name in runs if not recipe.arm(name).control):
            paths = {block: place / SELECTION / TABLE for block, place in runs[arm.name].items()}
            tables = {block: pd.read_csv(path) for block, path in paths.items() if path.is_file()}
            strategy = str(arm.options["strategy"])
            if next(iter(blocks)) in tables:
                first.setdefault(strategy, (arm, tables[next(iter(blocks))]))
            if strategy in _NEEDS_SCORES:
                scored = scored or tables
        drawn: dict[str, Path] = {}
        if "influence" in first:
            loss = "MSE" if recipe.classes is None else "log loss"
            drawn |= self._draw_influence(*first["influence"], folder, loss)
        if "uncertainty" in first:
            arm, table = first["uncertainty"]
            percentile = 100 - float(table["selected"].mean() * 100)
            caption = f"Variance over passes with dropout, sorted, on the first block; red: {arm.title!r}."
            stem = folder / "sorted_uncertainty"
            drawn[caption] = sorted_scores(table["variance"].to_numpy(), percentile, stem)[1]
        names = _scores(recipe)
        found = agreement(scored, blocks, list(names))
        if found:
            drawn[agreement_words(found, names)] = agreement_figure(found, names, folder / "agreement")[1]
        return drawn

    def _draw_influence(self, arm: ArmSpec, table: pd.DataFrame, folder: Path, loss: str) -> dict[str, Path]:
        from moltune.attribution.figures import score_against_residual, score_histogram

        low = self.options(arm).convention == "negative-helps"
        change, side = ("change", "below") if low else ("fall", "above")
        label = f"Predicted {change} of the validation {loss} ({side} zero helps)"
        scores, chosen = table["score"].to_numpy(), table["selected"].to_numpy(dtype=bool)
        drawn: dict[str, Path] = {}
        if chosen.any():
            edge = scores[chosen].max() if low else scores[chosen].min()
            caption = f"Influence scores on the first block; the red line is the last molecule of {arm.title!r}."
            drawn[caption] = score_histogram(scores, float(edge), folder / "influence_scores", label=label)[1]
        caption = "Influence against the residual of the model that was not trained on these molecules."
        stem = folder / "influence_against_residual"
        drawn[caption] = score_against_residual(scores, table["residual"].to_numpy(), stem, label=label)[1]
        return drawn

    def _scorer(self, arm: ArmSpec, recipe: Recipe) -> ArmSpec:
        name = self.options(arm).scored_by
        return arm if name is None else recipe.arm(name)


def compute_scores(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Tune on a block without additions and score every external molecule with that model.

    Returns:
        ``row`` (of the external source), ``score``, ``residual`` and ``variance``, of classes also ``entropy`` and
        ``mutual_information``, each of shape (n,).
    """
    from moltune.attribution.influence import influence
    from moltune.tuning.finetune import finetune
    from moltune.uncertainty.estimate import uncertainty

    block = Block.model_validate(specification["block"])
    split = Protocol.model_validate(specification["protocol"]).make_split(bench.molecules, block)
    output = bench.folder / "base"
    config = make_config(run_values(specification["settings"], bench, split, block.seed, output))
    run = finetune(config, molecules=bench.molecules, overwrite=(output / "config.yaml").is_file())
    external = external_molecules(specification["_external"])
    settings = InfluenceSettings.model_validate({**specification["influence"], "halves": False})
    scored = influence(run, external, settings)
    spread = uncertainty(run.path, external, UncertaintySettings(passes=specification["passes"], seed=block.seed))
    return {
        "row": scored.external.table["row"].to_numpy(dtype=np.int64),
        "score": scored.table["score"].to_numpy(),
        "residual": scored.table["residual"].to_numpy(),
        **{name: spread.table[name].to_numpy() for name in _scores(bench.molecules) if name in spread.table},
    }


def _scores(of: Recipe | Molecules) -> dict[str, str]:
    """Column of the scores -> what readers call it."""
    known = {"score": "influence", "residual": "residual", "variance": "uncertainty"}
    return known if of.classes is None else {**known, "entropy": "entropy", "mutual_information": "BALD"}


def external_molecules(settings: Mapping[str, Any]) -> Molecules:
    """The recipe's external molecules, cleaned; read once per process."""
    return _load_external(json.dumps(settings, sort_keys=True))


@lru_cache(maxsize=2)
def _load_external(settings: str) -> Molecules:
    values = json.loads(settings)
    classes = values.pop(CLASSES, None)
    if classes is None:
        # Even where an external file happens to hold 0 and 1 alone.
        return load_molecules(None, DataSettings.model_validate({**values, "task": "regression"}))
    return load_molecules(None, DataSettings.model_validate(values), classes=(classes[0], classes[1]))


def external_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 over SMILES and labels of the external molecules."""
    table = external_molecules(settings).table[["smiles", "target"]]
    return hashlib.sha256(table.to_csv(index=False, float_format="%.17g").encode()).hexdigest()


def _external(recipe: Recipe) -> dict[str, Any]:
    assert recipe.external is not None
    classes = {} if recipe.classes is None else {CLASSES: list(recipe.classes)}
    return recipe.external.model_dump(mode="json") | classes


def _influence_settings(options: SelectionOptions) -> InfluenceSettings:
    return make_settings(InfluenceSettings, options.influence)


def _select_settings(options: SelectionOptions) -> SelectSettings:
    names = ("strategy", *_AMOUNTS, "convention", "clusters")
    return make_settings(SelectSettings, {name: getattr(options, name) for name in names})
