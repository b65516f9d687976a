"""What a study's runs show: one verdict per comparison, corrected for what makes differences look more certain.

- Arms are compared on the same blocks, and on the molecules that both predicted.
- Blocks of one split (other seeds) are averaged first: a split with three seeds is one observation, not three.
- The t-test is corrected for training sets that overlap between splits (Nadeau & Bengio 2003).
- p-values are corrected for the number of comparisons in the study (Holm 1979), those of equivalence likewise.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any

import numpy as np
import pandas as pd

from moltune.errors import DataError
from moltune.evaluation import statistics
from moltune.evaluation.metrics import task_of
from moltune.evaluation.power import blocks_needed, minimum_detectable_effect
from moltune.reports.summary import CLASS_METRIC_LABELS, METRIC_LABELS
from moltune.study.engine.store import Store
from moltune.study.recipe.recipe import Recipe

LABELS = {**METRIC_LABELS, **CLASS_METRIC_LABELS, "calibration_error": "Calibration error"}
FEW_UNITS = 5
KEYS = ["arm", "split", "fold", "seed", "block", "unit", "hash"]


@dataclass(frozen=True)
class Comparison:
    """One arm against another, the reference.

    Differences are arm - reference in metric units: below zero, the arm has the smaller error, or the smaller ROC AUC.
    The word knows which is better. The tests work on splits (or folds), ``units``; p-values with ``holm`` are corrected
    over the whole family of comparisons.
    """

    arm: str
    reference: str
    word: str = "cannot tell"  # or better, worse, equivalent
    mean: float | None = None  # of the arm's metric over the common blocks
    reference_mean: float | None = None
    difference: float | None = None  # mean over the units
    interval: tuple[float, float] | None = None  # 95 %, corrected t distribution, for this comparison alone
    bootstrap: tuple[float, float] | None = None  # 95 %, percentiles over units, which ignore their overlap
    p: float | None = None  # corrected resampled t-test, two-sided
    p_holm: float | None = None
    p_wilcoxon: float | None = None  # signed ranks over units, which ignore their overlap
    p_equivalence: float | None = None  # of a difference as large as the margin (TOST), corrected for overlap
    p_equivalence_holm: float | None = None
    effect_size: float | None = None  # difference / standard deviation of differences; None without spread
    noise_floor: float | None = None  # standard deviation of the reference over its runs
    margin: float | None = None  # differences below this do not matter; None: the reference does not vary
    detectable: float | None = None  # smallest true difference that is found with the wanted power
    blocks: int = 0  # that both finished
    units: int = 0
    more_units: int | None = None  # to find a true difference of the margin; None: no number would; 0: not needed

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; infinite effect sizes become None."""
        return {name: _finite(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Ranking:
    """Many arms at once, on the splits that all of them finished; control arms stay out."""

    arms: list[str]
    table: np.ndarray  # metric, shape (units, arms)
    friedman: statistics.FriedmanResult | None  # None with fewer than three arms
    tukey: list[statistics.TukeyPair]  # one per pair of arms
    sign: int = 1  # -1: a higher value is better; ranks count that


@dataclass(frozen=True)
class Analysis:
    """Everything that a report says about the numbers."""

    recipe: Recipe
    frame: pd.DataFrame  # one line per arm and block, with the metrics on the molecules that every arm predicted
    comparisons: list[Comparison]  # in the recipe's order
    ranking: Ranking | None  # None with fewer than two arms or common splits
    ratio: float  # test molecules / training molecules, the correction of the t-test
    notes: list[str] = field(default_factory=list)  # what a reader must know
    failures: dict[str, str] = field(default_factory=dict)  # hash -> error of each run that failed

    @property
    def metric(self) -> str:
        """The metric that arms are compared by."""
        return self.recipe.metric

    @property
    def label(self) -> str:
        """Its name for readers."""
        return LABELS[self.metric]

    def interval(self, arm: str) -> tuple[float, float] | None:
        """95 % interval of an arm's mean over splits, widened for their overlap; None with fewer than two splits."""
        frame, ratio = _units(self.frame, self.recipe, self.ratio)
        # A run that serves several seeds counts once.
        done = frame.loc[frame["arm"] == arm].dropna(subset=[self.metric]).drop_duplicates("hash")
        means = done.groupby("unit", sort=False)[self.metric].mean().to_numpy()
        return statistics.corrected_interval(means, ratio) if len(means) > 1 else None


def analyse(store: Store) -> Analysis:
    """Read a study's folder and compare its arms; an unfinished study gives what its finished blocks show.

    Raises:
        RunFolderError: the folder is no study.
    """
    study = store.study()
    recipe = Recipe.model_validate(study["recipe"])
    frame, notes = collect(store, study)
    open_runs = frame.loc[~frame["finished"].astype(bool), "hash"].unique()
    failures = {hash_: failure for hash_ in open_runs if (failure := store.failure(hash_)) is not None}
    ratio = overlap_ratio(store, study)
    comparisons = compare(frame, recipe, ratio)
    return Analysis(
        recipe=recipe,
        frame=frame,
        comparisons=comparisons,
        ranking=rank(frame.dropna(subset=[recipe.metric]), recipe),
        ratio=ratio,
        notes=[*_power_notes(recipe, comparisons), *recipe.notes, *notes, *study["notes"]],
        failures={hash_: f"{failure['task']}: {failure['error']}" for hash_, failure in failures.items()},
    )


def collect(store: Store, study: dict[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """One line per arm and block; metrics are computed on the test molecules that all finished arms predicted."""
    index = pd.DataFrame(study["index"], columns=KEYS)
    molecules = store.molecules(study["data"]["key"])
    if molecules is None:
        raise DataError(f"the molecules of the study are missing in {store.folder}; run it again")
    target = pd.Series(molecules.target, index=molecules.table["row"].to_numpy())
    metrics = task_of(molecules.classes).all_metrics
    results = {hash_: store.result(hash_) for hash_ in index["hash"].unique()}
    rows: list[dict[str, Any]] = []
    lost = 0
    for _, block in index.groupby("block", sort=False):
        tests = {}
        for hash_ in block["hash"].unique():
            if (result := results[hash_]) is not None:
                predictions = result.predictions
                tests[hash_] = predictions[predictions["part"] == "test"].set_index("row")["predicted"]
        common = reduce(pd.Index.intersection, [test.index for test in tests.values()] or [pd.Index([])]).sort_values()
        lost = max([lost, *(len(test) - len(common) for test in tests.values())])
        for entry in block.to_dict(orient="records"):
            result = results[entry["hash"]]
            row: dict[str, Any] = {str(key): value for key, value in entry.items()}
            row["finished"] = result is not None
            if result is not None:
                true, predicted = target.loc[common].to_numpy(), tests[entry["hash"]].loc[common].to_numpy()
                row |= {name: float(metric(true, predicted)) for name, metric in metrics.items()}
                row |= {name: result.facts.get(name) for name in ("seconds", "peak_memory_mb", "facts")}
                row["n_test"] = len(true)
            rows.append(row)
    notes = []
    if lost:
        notes.append(f"Up to {lost} test molecules of a split were left out, because some arm could not predict them.")
    open_runs = sum(not row["finished"] for row in rows)
    if open_runs:
        notes.append(f"{open_runs} of {len(rows)} runs are not finished or failed; the comparisons use the others.")
    columns = [*KEYS, "finished", "n_test", *metrics, "seconds", "peak_memory_mb", "facts"]
    return pd.DataFrame(rows).reindex(columns=columns), notes


def overlap_ratio(store: Store, study: dict[str, Any]) -> float:
    """Mean of test molecules / training molecules over the splits."""
    ratios = []
    for unit in dict.fromkeys(entry["unit"] for entry in study["index"]):
        parts = pd.read_csv(store.split_path(unit), usecols=["split"])["split"].value_counts()
        ratios.append(parts["test"] / parts["train"])
    return float(np.mean(ratios))


def compare(frame: pd.DataFrame, recipe: Recipe, ratio: float, *, plan: bool = True) -> list[Comparison]:
    """Every comparison of the recipe, with p-values corrected over all of them.

    Args:
        frame: columns arm, block, unit, hash and the metric; NaN where a run is not finished.
        recipe: names pairs, metric, alpha, power, margin.
        ratio: n_test / n_train of a split.
        plan: also compute ``detectable`` and ``more_units``, which takes most of the time.
    """
    frame, ratio = _units(frame, recipe, ratio)
    pairs = recipe.pairs()
    # Bonferroni, which Holm is never stricter than: what is promised here is kept after the correction.
    alpha = recipe.statistics.alpha / max(1, len(pairs)) if plan else None
    raw = [_compare(frame, one, other, recipe, ratio, alpha) for one, other in pairs]
    known = [item for item in raw if item.p is not None]
    if not known:
        return raw
    different = iter(statistics.holm([1.0 if item.p is None else item.p for item in known]))
    same = iter(statistics.holm([1.0 if item.p_equivalence is None else item.p_equivalence for item in known]))
    judged = []
    for item in raw:
        if item.difference is not None:
            word, closer = "cannot tell", recipe.sign * item.difference < 0
            p, p_equivalence = float(next(different)), float(next(same))
            # A difference shown to be smaller than the margin is no reason to change, even where it is surely not zero.
            if p_equivalence < recipe.statistics.alpha:
                word = "equivalent"
            elif p < recipe.statistics.alpha:
                word = "better" if closer else "worse"
            more = item.more_units if word == "cannot tell" else 0
            item = replace(item, word=word, p_holm=p, p_equivalence_holm=p_equivalence, more_units=more)
        judged.append(item)
    return judged


def _compare(
    frame: pd.DataFrame, arm: str, reference: str, recipe: Recipe, ratio: float, alpha: float | None
) -> Comparison:
    """Compare without regard to the family; ``alpha`` plans what is detectable, None leaves that out."""
    settings, metric = recipe.statistics, recipe.metric
    wide = _wide(frame, metric).reindex(columns=[arm, reference]).dropna()
    units = wide.groupby(level="unit", sort=False).mean()
    counted = Comparison(arm, reference, blocks=len(wide), units=len(units))
    if len(wide):
        counted = replace(counted, mean=float(wide[arm].mean()), reference_mean=float(wide[reference].mean()))
    if len(units) < 2:
        return counted
    one, other = units[arm].to_numpy(), units[reference].to_numpy()
    differences, n = one - other, len(units)
    sd = float(differences.std(ddof=1))
    boot = statistics.paired_difference(one, other, bootstrap=settings.bootstrap)
    floor = _noise_floor(frame, reference, metric)
    margin = settings.margin or (floor / 2 if floor else None)
    detectable = more = None
    if alpha is not None:
        planned: dict[str, float] = {"alpha": alpha, "wanted_power": settings.power, "ratio": ratio}
        detectable = minimum_detectable_effect(sd, n, **planned)
        needed = None if margin is None else blocks_needed(margin, sd, **planned)
        more = None if needed is None else max(1, needed - n)
    return replace(
        counted,
        difference=boot.value,
        interval=statistics.corrected_interval(differences, ratio),
        bootstrap=(boot.lower, boot.upper),
        p=statistics.corrected_t_test(differences, ratio).p,
        p_wilcoxon=statistics.wilcoxon(differences).p,
        p_equivalence=None if margin is None else statistics.tost(differences, margin, ratio=ratio),
        effect_size=boot.value / sd if sd > 0 else None,
        noise_floor=floor,
        margin=margin,
        detectable=detectable,
        more_units=more,
    )


def _wide(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The metric with one line per unit and block, one column per arm."""
    return frame.pivot_table(index=["unit", "block"], columns="arm", values=metric, sort=False)


def _units(frame: pd.DataFrame, recipe: Recipe, ratio: float) -> tuple[pd.DataFrame, float]:
    """The frame with what counts as one observation, a split, and the overlap of these."""
    # Where seeds are all there is, they share no resampling.
    return (frame.assign(unit=frame["block"]), 0.0) if _one_split(recipe) else (frame, ratio)


def _one_split(recipe: Recipe) -> bool:
    return recipe.protocol.folds is None and len(recipe.protocol.splits) == 1


def _noise_floor(frame: pd.DataFrame, arm: str, metric: str) -> float | None:
    """Spread of an arm's own runs; one run that serves several seeds counts once."""
    values = frame.loc[frame["arm"] == arm].dropna(subset=[metric]).drop_duplicates("hash")[metric].to_numpy()
    floor = float(statistics.noise_floor(values)) if len(values) > 1 else 0.0
    # Rounding leaves a trace of spread where there is none.
    return floor if floor > 1e-12 * abs(float(values.mean())) else None


def rank(done: pd.DataFrame, recipe: Recipe) -> Ranking | None:
    """Friedman and Tukey over the arms that are no controls, on the splits that all of them finished."""
    wide, alpha = _wide(done, recipe.metric), recipe.statistics.alpha
    arms = [arm.name for arm in recipe.arms if not (arm.control or arm.grid) and arm.name in wide.columns]
    table = wide[arms].dropna().groupby(level="unit", sort=False).mean().to_numpy()
    if len(arms) < 2 or len(table) < 2:
        return None
    ranks = statistics.friedman(recipe.sign * table, alpha=alpha) if len(arms) > 2 else None
    return Ranking(arms, table, ranks, statistics.tukey_hsd(table, confidence=1 - alpha), recipe.sign)


def _power_notes(recipe: Recipe, comparisons: list[Comparison]) -> list[str]:
    notes = []
    units = [comparison.units for comparison in comparisons if comparison.units]
    if units and min(units) < FEW_UNITS:
        notes.append(
            f"This study is underpowered: it has {min(units)} splits, so only large differences can be found, and "
            "'cannot tell' says more about the study than about the arms."
        )
    if _one_split(recipe):
        notes.append(
            "All runs share one split: the verdicts are about the noise of seeds on these test molecules, and say "
            "nothing about other molecules."
        )
    return [*notes, recipe.protocol.note] if recipe.protocol.note else notes


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return [_finite(item) for item in value] if isinstance(value, tuple) else value
