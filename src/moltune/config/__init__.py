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
from moltune.config.finetuning import (
    DEFAULT_BLEND,
    METHOD_NAMES,
    METHOD_TRAINING,
    AdaptConfig,
    AdaptSettings,
    CleanSettings,
    DataSettings,
    EvaluationSettings,
    FinetuneConfig,
    MethodSettings,
    ModelSettings,
    PredictionSettings,
    ProbeSettings,
    SplitSettings,
    TrainingSettings,
    make_config,
    parse_list,
    parse_ratios,
    training_defaults,
)
from moltune.config.pretraining import Architecture, PretrainConfig, PretrainSettings

__all__ = [
    "DEFAULT_BLEND",
    "METHOD_NAMES",
    "METHOD_TRAINING",
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
    "TrainingSettings",
    "UncertaintySettings",
    "explain",
    "make_config",
    "make_settings",
    "parse_list",
    "parse_ratios",
    "training_defaults",
]
