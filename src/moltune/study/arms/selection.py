"""Arms that add selected molecules of the recipe's external data to the training part, and fine-tune on both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from moltune.config import DataSettings, Settings, make_config, make_settings
from moltune.data.load import load_molecules
from moltune.data.molecules import Molecules
from moltune.data.overlap import exclude_held_out
from moltune.data.reading.write import write_table
from moltune.data.splitting.split import Split, write_index_file
from moltune.errors import ConfigError
from moltune.study.analysis.agreement import agreement, agreement_figure, agreement_words
from moltune.study.arms.base import ArmSpec, Outcome, Step, Workbench, control_rule, register_kind
from moltune.study.arms.finetune import FinetuneKind, FinetuneOptions
from moltune.study.recipe.protocol import Block, Protocol
from moltune.study.recipe.recipe import Recipe

SELECTION, TABLE = "selection", "selection.csv"
_NEEDS_SCORES = ("influence", "influence-reversed", "uncertainty", "residual")
_SCORES = {"score": "influence", "residual": "residual", "variance": "uncertainty"}
_CONTROLS = {
    "random": "as many molecules at random: a selection that does not beat it has selected nothing",
    "influence-reversed": "as many molecules from the other end: a score that means something must beat it",
    "all": "every external molecule: shows whether selecting helps at all",
    "none": "no external molecule: shows whether adding helps at all",
}
_LABELS = {
    "random": "As many at random",
    "influence-reversed": "Influence reversed, as many",
    "all": "All external molecules",
    "none": "No external molecule",
}


class SelectionOptions(FinetuneOptions):
    """What is selected, how the scores are computed, and the settings of the fine-tuning."""

    strategy: str = Field(description="influence, influence-reversed, uncertainty, random, similarity, all, none ...")
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


@register_kind
class SelectionKind(FinetuneKind):
    """Scores come from a model tuned on the same split and seed without any addition, once for all arms.

    Molecules that the validation or test part of the split holds are excluded from every arm.
    """

    name = "selection"
    description = "a fine-tuned language model with selected external molecules"
    Options: ClassVar[type[Settings]] = SelectionOptions
    libraries: ClassVar[tuple[str, ...]] = ("numpy", "rdkit", "scikit-learn", "torch", "transformers", "peft")
    uses_external = True

    def check(self, arm: ArmSpec, recipe: Recipe) -> None:
        """Raise ConfigError where there are no external data, or the amount does not fit the strategy."""
        if recipe.external is None or recipe.external.source is None:
            raise ConfigError(
                f"arm {arm.name!r} selects from external data, and the recipe names none: give `--external FILE`, or "
                "external: {source: FILE} in the recipe"
            )
        options = self.options(arm)
        _amount(options)
        if "convention" in options.influence:
            raise ConfigError(f"arm {arm.name!r}: convention is a setting of the arm, not of influence")
        scorer = self._scorer(arm, recipe)
        if scorer.kind != self.name or self.options(scorer).scored_by is not None:
            raise ConfigError(f"arm {arm.name!r}: scored_by names {scorer.name!r}, which is no selection of its own")
        self._influence(scorer)
        super().check(arm, recipe)

    def specification(self, arm: ArmSpec, recipe: Recipe, block: Block) -> dict[str, Any]:
        """The fine-tuning's, what is selected, and a digest of the external molecules."""
        assert recipe.external is not None
        options = self.options(arm)
        wanted = _amount(options).model_copy(update={"seed": block.seed}).model_dump(mode="json")
        if options.strategy != "random":
            # A seed that changes nothing must not look like another experiment.
            wanted["seed"] = 0
        external = recipe.external.model_dump(mode="json")
        return {
            **super().specification(arm, recipe, block),
            "select": wanted,
            "external": external_digest(external),
            "_external": external,
            "_block": block.name,
        }

    def steps(self, arm: ArmSpec, recipe: Recipe, block: Block) -> list[Step]:
        """The fine-tuning's, and scores of all external molecules on this block where the strategy needs them."""
        options = self.options(arm)
        steps = super().steps(arm, recipe, block)
        if options.strategy not in _NEEDS_SCORES:
            return steps
        assert recipe.external is not None
        external = recipe.external.model_dump(mode="json")
        scorer = self._scorer(arm, recipe)
        tuned = super().specification(scorer, recipe, block)
        specification = {
            "settings": tuned["settings"],
            "weights": tuned["weights"],
            # Halves change what is said of the scores, not the scores.
            "influence": self._influence(scorer).model_dump(mode="json", exclude={"halves"}),
            "passes": self.options(scorer).passes,
            "protocol": recipe.protocol.model_dump(mode="json", exclude={"name", "note"}),
            "block": block.model_dump(mode="json"),
            "external": external_digest(external),
            "_external": external,
        }
        return [*steps, Step(_step_name(block.name), specification, "moltune.study.arms.selection:compute_scores")]

    def run(self, specification: Mapping[str, Any], split: Split, seed: int, bench: Workbench) -> Outcome:
        """Select, then fine-tune with the selected molecules added."""
        molecules = external_molecules(specification["_external"])
        table = pd.DataFrame({"row": molecules.table["row"].to_numpy(), "smiles": molecules.smiles})
        scores = _scores(bench, specification["_block"])
        if scores is not None:
            # Molecules that the model cannot read have no scores and are no candidates.
            table = table.merge(scores, on="row")
            if specification["select"]["convention"] == "positive-helps":
                # One set of scores serves both conventions, which differ in the sign alone.
                table["score"] = -table["score"]
            kept = set(table["row"])
            unread = {i: "not scored" for i, row in enumerate(molecules.table["row"]) if row not in kept}
            molecules = molecules.reject(unread)
        parts = split.to_frame(bench.molecules)["split"].to_numpy(dtype=object)
        candidates, excluded = exclude_held_out(molecules, bench.molecules, parts)
        table = table.set_index("row").loc[candidates.table["row"]].reset_index()
        chosen = _choose(table, bench, split, specification["select"])
        bench.folder.mkdir(parents=True, exist_ok=True)
        place = bench.folder / SELECTION
        place.mkdir(exist_ok=True)
        is_chosen = np.isin(np.arange(len(table)), chosen)
        write_table(table.drop(columns="smiles").assign(selected=is_chosen), place / TABLE)
        added: dict[str, Any] = {}
        if len(chosen):
            picked = candidates.table.iloc[chosen][["smiles", "target"]].rename(columns={"target": "label"})
            path = bench.folder / "selected.csv"
            write_table(picked, path)
            added = {"add": str(path)}
        outcome = super().run({**specification, "_data": added}, split, seed, bench)
        facts = {**outcome.facts, "candidates": len(candidates), "added": len(chosen), "excluded": len(excluded)}
        return Outcome(outcome.predictions, facts, outcome.history, {**outcome.kept, SELECTION: place})

    def draw(self, runs: Mapping[str, Mapping[str, Path]], recipe: Recipe, folder: Path) -> dict[str, Path]:
        """Influence scores with the threshold of the first arm that selects by them, sorted uncertainties (both on
        the first block), and whether the scores of different blocks agree.
        """
        from moltune.attribution.figures import score_against_residual, score_histogram
        from moltune.uncertainty.report import sorted_scores

        blocks = {block.name: block for block in recipe.protocol.blocks()}
        first_block = next(iter(blocks))
        first: dict[str, tuple[ArmSpec, pd.DataFrame]] = {}
        scored: dict[str, pd.DataFrame] = {}
        for name, places in runs.items():
            arm = recipe.arm(name)
            if arm.control:
                continue
            strategy = str(arm.options["strategy"])
            if strategy not in first and (path := _table_of(places, first_block)) is not None:
                first[strategy] = (arm, pd.read_csv(path))
            if strategy in _NEEDS_SCORES and not scored:
                scored = {block: pd.read_csv(at) for block in blocks if (at := _table_of(places, block)) is not None}
        drawn: dict[str, Path] = {}
        if "influence" in first:
            arm, table = first["influence"]
            low = self.options(arm).convention == "negative-helps"
            change, side = ("change", "below") if low else ("fall", "above")
            label = f"Predicted {change} of the validation MSE ({side} zero helps)"
            scores, chosen = table["score"].to_numpy(), table["selected"].to_numpy(dtype=bool)
            if chosen.any():
                edge = scores[chosen].max() if low else scores[chosen].min()
                caption = f"Influence scores on the first block; the red line is the last one of {arm.title!r}."
                drawn[caption] = score_histogram(scores, float(edge), folder / "influence_scores", label=label)[1]
            caption = "Influence against the residual of the model that was not trained on these molecules."
            stem = folder / "influence_against_residual"
            drawn[caption] = score_against_residual(scores, table["residual"].to_numpy(), stem, label=label)[1]
        if "uncertainty" in first:
            arm, table = first["uncertainty"]
            percentile = 100 - float(table["selected"].mean() * 100)
            caption = f"Variance over passes with dropout, sorted, on the first block; red: {arm.title!r}."
            stem = folder / "sorted_uncertainty"
            drawn[caption] = sorted_scores(table["variance"].to_numpy(), percentile, stem)[1]
        if scored:
            found = agreement(scored, blocks, list(_SCORES))
            if found:
                drawn[agreement_words(found, _SCORES)] = agreement_figure(found, _SCORES, folder / "agreement")[1]
        return drawn

    def _scorer(self, arm: ArmSpec, recipe: Recipe) -> ArmSpec:
        name = self.options(arm).scored_by
        return arm if name is None else recipe.arm(name)

    def _influence(self, arm: ArmSpec) -> Any:
        from moltune.attribution.problem import InfluenceSettings

        return make_settings(InfluenceSettings, self.options(arm).influence)


@control_rule
def selection_controls(recipe: Recipe) -> list[ArmSpec]:
    """A selection is compared with as many at random, with its reverse, with all and with none."""
    arms = [arm for arm in recipe.arms if arm.kind == SelectionKind.name and not arm.control]
    strategies = {arm.options.get("strategy") for arm in arms}
    selecting = [arm for arm in arms if arm.options.get("strategy") not in _CONTROLS]
    if not selecting:
        return []
    first = next((arm for arm in selecting if arm.options["strategy"] == "influence"), selecting[0])
    controls = []
    for strategy, reason in _CONTROLS.items():
        if strategy in strategies or (strategy == "influence-reversed" and "influence" not in strategies):
            continue
        options = dict(first.options)
        options["strategy"] = strategy
        # A threshold on scores means nothing at random.
        dropped = ["threshold"] if strategy == "random" else []
        dropped += ["count", "percentile", "threshold"] if strategy in ("all", "none") else []
        for name in dropped:
            options.pop(name, None)
        if strategy == "random" and not {"count", "percentile"} & options.keys():
            continue
        values = {**options, "name": f"add-{strategy}", "kind": SelectionKind.name}
        controls.append(ArmSpec.model_validate({**values, "label": _LABELS[strategy], "control": reason}))
    return controls


def compute_scores(bench: Workbench, specification: dict[str, Any]) -> dict[str, np.ndarray]:
    """Tune on a block without additions and score every external molecule with that model.

    Returns:
        ``row`` (of the external source), ``score``, ``residual`` and ``variance``, each of shape (n,).
    """
    from moltune.attribution.influence import influence
    from moltune.attribution.problem import InfluenceSettings
    from moltune.run import Run
    from moltune.tuning.finetune import finetune
    from moltune.uncertainty.estimate import UncertaintySettings, uncertainty

    block = Block.model_validate(specification["block"])
    split = Protocol.model_validate(specification["protocol"]).make_split(bench.molecules, block)
    bench.folder.mkdir(parents=True, exist_ok=True)
    values = {
        **specification["settings"],
        "data": {"source": str(bench.molecules.provenance.get("source"))},
        "split": {
            "method": "index",
            "index_file": str(write_index_file(bench.molecules, split, bench.folder / "split.json")),
        },
        "seed": block.seed,
        "output": str(bench.folder / "base"),
        "evaluation": {"baselines": [], "figures": False, "bootstrap": 0, "training_part": False},
    }
    values["training"] = {**values["training"], "threads": bench.threads}
    finished = (bench.folder / "base" / "config.yaml").is_file()
    run: Run = finetune(make_config(values), molecules=bench.molecules, overwrite=finished)
    external = external_molecules(specification["_external"])
    settings = InfluenceSettings.model_validate({**specification["influence"], "halves": False})
    scored = influence(run, external, settings)
    spread = uncertainty(run.path, external, UncertaintySettings(passes=specification["passes"], seed=block.seed))
    return {
        "row": scored.external.table["row"].to_numpy(dtype=np.int64),
        "score": scored.table["score"].to_numpy(),
        "residual": scored.table["residual"].to_numpy(),
        "variance": spread.table["variance"].to_numpy(),
    }


def external_molecules(settings: Mapping[str, Any]) -> Molecules:
    """The recipe's external molecules, cleaned; read once per process."""
    return _load_external(tuple(sorted((name, repr(value)) for name, value in settings.items())), _Frozen(settings))


def external_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 over SMILES and labels of the external molecules."""
    table = external_molecules(settings).table[["smiles", "target"]]
    return hashlib.sha256(table.to_csv(index=False, float_format="%.17g").encode()).hexdigest()


class _Frozen:
    """Settings that do not take part in the cache's key, which is their text."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=2)
def _load_external(key: tuple[tuple[str, str], ...], settings: _Frozen) -> Molecules:
    return load_molecules(None, DataSettings.model_validate(settings.values))


def _amount(options: SelectionOptions) -> Any:
    from moltune.selection.strategies import SelectSettings

    names = ("strategy", "count", "percentile", "threshold", "convention", "clusters")
    return make_settings(SelectSettings, {name: getattr(options, name) for name in names})


def _table_of(places: Mapping[str, Path], block: str) -> Path | None:
    path = places[block] / SELECTION / TABLE if block in places else None
    return path if path is not None and path.is_file() else None


def _step_name(block: str) -> str:
    return f"scores {block}"


def _scores(bench: Workbench, block: str) -> pd.DataFrame | None:
    step = _step_name(block)
    if step not in bench.steps:
        return None
    return pd.DataFrame({name: np.array(bench.array(step, name)) for name in ("row", "score", "residual", "variance")})


def _choose(table: pd.DataFrame, bench: Workbench, split: Split, wanted: Mapping[str, Any]) -> np.ndarray:
    from moltune.selection.strategies import SelectSettings, candidates_from, choose

    reference = [bench.molecules.smiles[position] for position in split.validation.tolist()]
    return choose(candidates_from(table, reference=reference), SelectSettings.model_validate(dict(wanted)))
