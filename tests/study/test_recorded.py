"""Specifications as version 0.3 hashed them: another text would make every stored run a stranger."""

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
    "ridge": "e166c33d4b6997134092",
    "mean": "4ff436c936ef6535aa65",
    "svr": "4514685645c073ffff80",
    "probe": "1e9d97129fa41bcc2afa",
    "plain": "9481698d0c0808e68d0f",
    "lora": "9b637480b40695c7c0a1",
    "adapted": "8c1c9480a671f1c93179",
    "random": "4440f59309ba1970440e",
    "blended": "5df3e5ae725e46dc1f04",
    "both": "5eab4597bf13a14426b3",
    "influence": "54753a4b048b83c64f11",
    "at-random": "7b8be24fa107348798ad",
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
