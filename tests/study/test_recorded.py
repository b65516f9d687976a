"""Specifications as version 0.1 hashed them: another text would make every stored run a stranger."""

from __future__ import annotations

from typing import Any

import pytest

from moltune.study.arms.registry import find_kind
from moltune.study.engine.store import digest
from moltune.study.load import make_recipe

FAST = {"training.epochs": 2, "training": {"learning_rate": 1e-3}}
ADAPT = {"adapt.objective": "both", "adapt.epochs": 2, "adapt.transductive": True}
BLEND = {"prediction.blend": ["xgboost", "svr:embedding+rdkit"]}
INFLUENCE = {"strategy": "influence", "percentile": 33, "influence": {"solver": "exact"}}
ARMS: list[dict[str, Any]] = [
    {"name": "ridge", "kind": "baseline", "baseline": "ridge"},
    {"name": "mean", "kind": "baseline", "baseline": "mean"},
    {"name": "svr", "kind": "svr", "features": ["rdkit", "morgan"], "C": 1.5},
    {"name": "probe", "kind": "probe", "head": "gp", "features": ["embedding", "rdkit"]},
    {"name": "plain", "kind": "finetune", "settings": FAST},
    {"name": "lora", "kind": "finetune", "settings": {"method": {"name": "lora", "peft": {"r": 4}}}},
    {"name": "adapted", "kind": "finetune", "settings": {**FAST, **ADAPT}},
    {"name": "random", "kind": "finetune", "settings": {"model.weights": "random"}},
    {"name": "blended", "kind": "finetune", "settings": BLEND},
    {"name": "both", "kind": "blend", "arms": ["ridge", "plain"]},
    {"name": "influence", "kind": "selection", **INFLUENCE},
    {"name": "at-random", "kind": "selection", "strategy": "random", "count": 9, "settings": FAST},
]
RECORDED = {
    "ridge": "1561fe0b6d322747ed89",
    "mean": "4ff436c936ef6535aa65",
    "svr": "4514685645c073ffff80",
    "probe": "1e9d97129fa41bcc2afa",
    "plain": "2f8816e25d1138a4fdf4",
    "lora": "dd4f54c290fa845f9b22",
    "adapted": "e4f524ad839c73520269",
    "random": "e73bb75ab8bea55d5b6a",
    "blended": "62f357ecc31cbe1bafd2",
    "both": "5eab4597bf13a14426b3",
    "influence": "5d19ba38b3a4b6c38332",
    "at-random": "34c37b5b767fde34014a",
}
# What differs between machines: versions of packages, checksums of files.
LOCAL = ("libraries", "weights", "external")


def common(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: common(item) for key, item in value.items() if key not in LOCAL}
    return [common(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", RECORDED)
def test_specifications_are_those_of_stored_runs(name: str) -> None:
    values = {"name": "recorded", "data": {"source": "esol"}, "external": {"source": "freesolv"}, "protocol": "P5"}
    recipe = make_recipe({**values, "arms": ARMS})
    arm, block = recipe.arm(name), recipe.protocol.blocks()[3]
    kind = find_kind(arm.kind)
    steps = [
        [step.name, step.recorded or step.function, common(step.specification)]
        for step in kind.steps(arm, recipe, block)
    ]
    own = common(kind.specification(arm, recipe, block))
    assert digest([kind.name, kind.version, own, steps]) == RECORDED[name]
