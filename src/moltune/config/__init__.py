"""Every typed setting and every default, once.

The same classes are filled from Python, from YAML and from the command line (see :mod:`moltune.overrides`).
"""

from moltune.config.analysis import (
    SCOPE_PATTERN,
    AuditSettings,
    InfluenceSettings,
    SearchSettings,
    SelectSettings,
    SolverSettings,
    UncertaintySettings,
)
from moltune.config.base import Group, Settings, explain, make_settings
from moltune.config.data import CleanSettings, DataSettings, SplitSettings, TableSettings, parse_ratios
from moltune.config.finetuning import (
    DEFAULT_BLEND,
    DEFAULT_FEATURES,
    LARGE_BLEND,
    METHOD_NAMES,
    METHOD_TRAINING,
    PH,
    AdaptConfig,
    AdaptSettings,
    EvaluationSettings,
    FinetuneConfig,
    MethodSettings,
    ModelSettings,
    PredictionSettings,
    ProbeSettings,
    TrainingSettings,
    make_config,
    parse_list,
    split_ph,
    training_defaults,
)
from moltune.config.pretraining import Architecture, PretrainConfig, PretrainSettings

__all__ = [
    "DEFAULT_BLEND",
    "DEFAULT_FEATURES",
    "LARGE_BLEND",
    "METHOD_NAMES",
    "METHOD_TRAINING",
    "PH",
    "SCOPE_PATTERN",
    "AdaptConfig",
    "AdaptSettings",
    "Architecture",
    "AuditSettings",
    "CleanSettings",
    "DataSettings",
    "EvaluationSettings",
    "FinetuneConfig",
    "Group",
    "InfluenceSettings",
    "MethodSettings",
    "ModelSettings",
    "PredictionSettings",
    "PretrainConfig",
    "PretrainSettings",
    "ProbeSettings",
    "SearchSettings",
    "SelectSettings",
    "Settings",
    "SolverSettings",
    "SplitSettings",
    "TableSettings",
    "TrainingSettings",
    "UncertaintySettings",
    "explain",
    "make_config",
    "make_settings",
    "parse_list",
    "parse_ratios",
    "split_ph",
    "training_defaults",
]
