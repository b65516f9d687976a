"""Baselines and members of a blend by name: classical ones, and probes written as ``svr:embedding+rdkit``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moltune.baselines.classical import STORABLE, Baseline, load_baseline, make_baseline
from moltune.config import DEFAULT_BLEND, LARGE_BLEND, FinetuneConfig, ProbeSettings, make_settings
from moltune.errors import ConfigError
from moltune.features.registry import EMBEDDING, FeatureTable, find_feature
from moltune.predictors.confidence import FEWEST_HELD_OUT
from moltune.predictors.gaussian_process import MOST_MOLECULES, GpHead
from moltune.predictors.probe import Probe
from moltune.reports.summary import is_probe_name


def probe_settings(name: str) -> ProbeSettings:
    """Head and features of a member such as ``svr:embedding+rdkit``.

    Raises:
        ConfigError: there is no such head or feature.
    """
    head, _, features = name.partition(":")
    try:
        return make_settings(ProbeSettings, {"head": head, "features": features.split("+")})
    except ConfigError as error:
        raise ConfigError(f"{name!r} is no probe, such as svr:embedding+rdkit: {error}") from None


def make_member(name: str, features: FeatureTable | None = None) -> Baseline:
    """Make a baseline or probe by name, not fitted.

    Args:
        name: of either.
        features: a table shared with others, in which probes find their ``embedding``.
    """
    return Probe(probe_settings(name), features) if is_probe_name(name) else make_baseline(name, features)


def load_member(name: str, folder: Path, features: FeatureTable, base: str | Path | None = None) -> Baseline:
    """Read a saved member.

    Args:
        name: of the member.
        folder: it was saved to.
        features: table that baselines share.
        base: where the checkpoint is now that a probe embeds with; unset: where it was.

    Raises:
        RunFolderError: a file is missing or damaged, or there is no such member.
        CheckpointError: a probe or its checkpoint is missing, damaged, or another one.
    """
    return Probe.load(folder, base) if is_probe_name(name) else load_baseline(name, folder, features)


def check_baselines(names: Sequence[str]) -> None:
    """See whether a model can be compared with these here.

    Raises:
        ConfigError: there is no such baseline or probe, or one needs a package.
    """
    for name in names:
        make_member(name)
        if is_probe_name(name):
            find_feature(name.partition(":")[2])


def check_members(names: Sequence[str] | None) -> None:
    """See whether a blend of these members can be made here and stored.

    Raises:
        ConfigError: a name is unknown, given twice, needs a package, or cannot be stored without pickle.
    """
    names = names or []
    for name in names:
        if not is_probe_name(name) and name not in STORABLE:
            raise ConfigError(
                f"prediction.blend: {name!r} cannot be part of a blend, which must be stored without pickle; "
                f"choose from {', '.join(STORABLE)}, or a probe such as svr:embedding+rdkit"
            )
    if len(set(names)) < len(names):
        raise ConfigError("prediction.blend names a baseline twice")
    check_baselines(names)


def baselines_of(config: FinetuneConfig, train: int) -> list[str]:
    """The baselines that a run is compared with: those of its settings that are not the run's model over again.

    Random weights hold nothing that a frozen probe could show, and a probe need not be compared with itself. A Gaussian
    process is left out where the training part is too large for it.
    """
    own = config.method.probe if config.method.name == "probe" else None

    def tells(name: str) -> bool:
        probe = probe_settings(name) if is_probe_name(name) else None
        untrained = probe is not None and EMBEDDING in probe.features and config.model.weights == "random"
        return probe is None or (probe != own and not untrained and (probe.head != GpHead.name or _fits(train)))

    return [name for name in config.evaluation.baselines if tells(name)]


def blend_of(config: FinetuneConfig, train: int, validation: int) -> list[str]:
    """The members beside the model in a run's blend; empty: the model is alone.

    Where the settings leave it open, a tuned pretrained model is averaged with what was best beside it on the bundled
    sets, if the validation part can tell how.

    Args:
        config: of the run.
        train: number of training molecules.
        validation: number of validation molecules.

    Raises:
        ConfigError: a blend was asked for, and there is no validation part to choose its weights on.
    """
    wanted = config.prediction.blend
    if wanted is not None:
        if wanted and not validation:
            raise ConfigError("prediction.blend chooses its weights on the validation part; give the split one")
        return wanted
    if config.method.name == "probe" or config.model.weights == "random" or validation < FEWEST_HELD_OUT:
        return []
    return DEFAULT_BLEND if _fits(train) else LARGE_BLEND


def _fits(train: int) -> bool:
    return train <= MOST_MOLECULES
