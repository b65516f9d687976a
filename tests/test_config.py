"""Settings: laws of ratios and overrides, refusal of what is unknown, and the way through YAML and back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moltune.attribution.solvers import SOLVERS
from moltune.config import (
    METHOD_NAMES,
    AdaptConfig,
    FinetuneConfig,
    InfluenceSettings,
    PretrainConfig,
    SelectSettings,
    Settings,
    SplitSettings,
    TrainingSettings,
    make_config,
    make_settings,
    parse_ratios,
)
from moltune.errors import ConfigError
from moltune.models.methods.registry import METHODS
from moltune.overrides import apply_overrides, read_yaml, set_nested
from moltune.run import settings_of
from moltune.selection.strategies import STRATEGIES

shares = st.floats(min_value=0, max_value=1e6, allow_nan=False)
names = st.text("abcdefgh_", min_size=1, max_size=6)
scalars = st.one_of(st.integers(-(10**9), 10**9), st.booleans(), st.floats(-1e12, 1e12), st.none())


# --- ratios ------------------------------------------------------------------------------------------------------


@given(st.floats(min_value=1e-3, max_value=1e6), shares, shares)
def test_ratios_are_fractions_in_proportion(train: float, validation: float, test: float) -> None:
    fractions = parse_ratios([train, validation, test])
    total = train + validation + test
    assert sum(fractions) == pytest.approx(1)
    assert fractions == pytest.approx((train / total, validation / total, test / total), abs=1e-9)


@given(st.integers(1, 100), st.integers(0, 100), st.integers(0, 100), st.sampled_from("/,"))
def test_ratios_as_text(train: int, validation: int, test: int, separator: str) -> None:
    text = separator.join(map(str, (train, validation, test)))
    assert parse_ratios(text) == parse_ratios((train, validation, test))
    # What a run folder stores comes back as it was.
    assert parse_ratios(list(parse_ratios(text))) == pytest.approx(parse_ratios(text), abs=1e-11)


@pytest.mark.parametrize(
    "value",
    ["", "70/30", "70/10/10/10", "a/b/c", "0/50/50", "0/0/0", "-1/1/1", "70/-10/40", "nan/1/1", "inf/1/1", None, 3,
     [1, 2], ["x", 1, 1], {}, [[1], 1, 1], "70/10/20/"],
)  # fmt: skip
def test_bad_ratios(value: Any) -> None:
    with pytest.raises(ValueError, match=r"70/10/20"):
        parse_ratios(value)
    with pytest.raises(ConfigError, match=r"split\.ratios: ratios are three"):
        make_config({"split": {"ratios": value}})


@given(st.text(max_size=12))
def test_any_text_is_ratios_or_a_config_error(text: str) -> None:
    try:
        ratios = make_config({"split": {"ratios": text}}).split.ratios
    except ConfigError:
        return
    assert sum(ratios) == pytest.approx(1)


# --- overrides -----------------------------------------------------------------------------------------------------


@given(st.lists(names, min_size=1, max_size=4, unique=True), scalars)
def test_override_sets_the_dotted_name_and_nothing_else(path: list[str], value: Any) -> None:
    before: dict[str, Any] = {"zz": {"kept": 1}}
    text = f"{'.'.join(path)}={yaml.safe_dump(value).removesuffix('...' + chr(10)).strip()}"
    after = apply_overrides(before, [text])
    assert before == {"zz": {"kept": 1}}
    assert after["zz"] == {"kept": 1}
    found: Any = after
    for name in path:
        found = found[name]
    assert found == (pytest.approx(value) if isinstance(value, float) else value)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("1e-4", 1e-4),
        ("5E3", 5000.0),
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("", None),
        ("[a, b]", ["a", "b"]),
        ("[]", []),
        ("[1e-4, 2]", [1e-4, 2]),
        ("a=b", "a=b"),
        ("70/10/20", "70/10/20"),
        ("'5'", "5"),
        ("C:\\data: x: [", "C:\\data: x: ["),
    ],
)
def test_values_of_overrides(raw: str, value: Any) -> None:
    assert apply_overrides({}, [f"a.b={raw}"]) == {"a": {"b": value}}


def test_later_overrides_win() -> None:
    assert apply_overrides({"a": 1}, ["a=2", "a=3"]) == {"a": 3}


@pytest.mark.parametrize("text", ["", "a", "=1", " =1"])
def test_override_without_name_or_value(text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        apply_overrides({}, [text])


def test_override_below_a_value() -> None:
    with pytest.raises(ConfigError, match="a is a value"):
        apply_overrides({"a": 1}, ["a.b=2"])
    values: dict[str, Any] = {}
    set_nested(values, "x.y.z", 1)
    assert values == {"x": {"y": {"z": 1}}}


# --- checks --------------------------------------------------------------------------------------------------------


@given(names.filter(lambda name: name not in FinetuneConfig.model_fields))
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}: there is no such setting"):
        make_config({name: 1})
    with pytest.raises(ConfigError, match=rf"training\.{name}: there is no such setting"):
        make_config({"training": {name: 1}})


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config({"seed": -1, "training": {"epochs": 0, "nope": 1}, "model": {"head": "x"}})
    for words in ("seed:", "training.epochs:", "training.nope:", "model.head:"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_are_finite(value: float) -> None:
    for name in ("learning_rate", "weight_decay", "max_grad_norm"):
        with pytest.raises(ConfigError, match=f"{name}: Input should be a finite number"):
            make_settings(TrainingSettings, {name: value})


def test_assignment_is_checked_too() -> None:
    config = make_config({})
    with pytest.raises(ValidationError):
        config.training.epochs = 0
    with pytest.raises(ValidationError):
        config.training.nope = 1  # type: ignore[attr-defined]


def test_groups_of_two_configurations_are_separate() -> None:
    one, two = make_config({}), make_config({})
    one.training.epochs = 99
    one.evaluation.baselines.append("ridge")
    assert two.training.epochs != 99
    assert two.evaluation.baselines == ["mean", "xgboost", "gp:rdkit-fast+ionisation"]
    assert make_config({}).evaluation.baselines == ["mean", "xgboost", "gp:rdkit-fast+ionisation"]


def test_split_methods_that_need_a_source() -> None:
    with pytest.raises(ConfigError, match=r"needs split\.column"):
        make_config({"split": {"method": "column"}})
    with pytest.raises(ConfigError, match=r"needs split\.index_file"):
        make_config({"split": {"method": "index"}})
    assert make_settings(SplitSettings, {"method": "column", "column": "x"}).column == "x"


@pytest.mark.parametrize(
    ("kind", "group", "name", "off"),
    [
        (FinetuneConfig, "training", "augment", 0),
        (FinetuneConfig, "adapt", "augment", 0),
        (FinetuneConfig, "prediction", "tta", 1),
        (AdaptConfig, "adapt", "augment", 0),
        (PretrainConfig, "", "augment", 0),
    ],
)
def test_settings_of_earlier_versions_load_where_they_were_off(
    kind: type[Settings], group: str, name: str, off: int
) -> None:
    values = {group: {name: off}} if group else {name: off}
    assert make_settings(kind, values) == make_settings(kind, {group: {}} if group else {})
    assert name not in str(make_settings(kind, values).model_dump())
    values = {group: {name: off + 1}} if group else {name: off + 1}
    with pytest.raises(ConfigError, match=f"{name}={off + 1} is no longer possible: random SMILES"):
        make_settings(kind, values)


def test_methods_are_those_of_the_registry_or_of_peft() -> None:
    assert set(METHOD_NAMES) == set(METHODS)
    assert make_config({"method": "vera"}).method.name == "vera"
    for name in ("nope", "", "..", "mixed"):
        with pytest.raises(ConfigError, match="there is no method"):
            make_config({"method": name})


def test_choices_are_those_of_the_registries() -> None:
    assert set(get_args(InfluenceSettings.model_fields["solver"].annotation)) == set(SOLVERS)
    assert set(get_args(SelectSettings.model_fields["strategy"].annotation)) == set(STRATEGIES)


def test_an_adaptation_learns_descriptors_unless_told_otherwise() -> None:
    assert make_settings(AdaptConfig, {"adapt": {"epochs": 2}}).adapt.objective == "mtr"
    assert make_settings(AdaptConfig, {"adapt": {"objective": "mlm"}}).adapt.objective == "mlm"


def test_seed_of_the_split() -> None:
    assert make_config({"seed": 4}).split_seed == 4
    assert make_config({"seed": 4, "split": {"seed": 0}}).split_seed == 0


# --- YAML ----------------------------------------------------------------------------------------------------------


configurations = st.builds(
    lambda seed, ratios, rate, epochs, patience, baselines, output: make_config(
        {
            "seed": seed,
            "split": {"ratios": ratios},
            "training": {"learning_rate": rate, "epochs": epochs, "patience": patience},
            "evaluation": {"baselines": baselines},
            "output": output,
        }
    ),
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 99), st.integers(0, 99), st.integers(0, 99)),
    st.floats(1e-12, 10),
    st.integers(1, 500),
    st.none() | st.integers(1, 50),
    st.lists(st.sampled_from(["mean", "ridge", "xgboost"])),
    st.none() | st.sampled_from(["runs/a b", "läufe/ü", "/x: y"]),
)


@given(configurations)
def test_yaml_and_back(config: FinetuneConfig) -> None:
    again = make_config(yaml.safe_load(yaml.safe_dump(settings_of(config), allow_unicode=True)))
    assert again.split.ratios == pytest.approx(config.split.ratios, abs=1e-11)
    assert again.model_copy(update={"split": config.split}) == config
    # The second time nothing moves any more: a resumed run compares equal.
    assert make_config(settings_of(again)) == again == make_config(settings_of(make_config(settings_of(again))))


def test_read_yaml(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("# nothing\n")
    assert read_yaml(path) == {}
    path.write_text("training: {epochs: 3}")
    assert make_config(read_yaml(path)).training.epochs == 3
    for content, words in (("- 1", "mapping"), ("a: [", "not valid YAML"), ("a: b: c", "not valid YAML")):
        path.write_text(content)
        with pytest.raises(ConfigError, match=words):
            read_yaml(path)
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read_yaml(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "nowhere.yaml")
