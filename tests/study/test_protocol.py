from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moltune.config import SplitSettings
from moltune.data.load import load_molecules
from moltune.data.splitting.split import make_split
from moltune.errors import ConfigError
from moltune.study.recipe.protocol import PROTOCOLS, Protocol


@given(n=st.integers(10, 60), folds=st.integers(2, 6), repetitions=st.integers(1, 3), share=st.floats(0, 0.3))
@settings(max_examples=30, deadline=None)
def test_folds_test_each_molecule_once_per_repetition(n: int, folds: int, repetitions: int, share: float) -> None:
    protocol = Protocol(kind="cross-validation", splits=repetitions, folds=folds, validation=share)
    molecules = _Molecules(n)
    for repetition in range(repetitions):
        tested = []
        for block in protocol.blocks():
            if block.split == repetition:
                split = protocol.make_split(molecules, block)  # type: ignore[arg-type]
                together = np.concatenate([split.train, split.validation, split.test])
                assert sorted(together) == list(range(n))
                assert len(split.validation) == round(share * n)
                tested.append(split.test)
        assert sorted(np.concatenate(tested)) == list(range(n))


def test_repetitions_differ() -> None:
    protocol = Protocol.model_validate(PROTOCOLS["ash5x5"])
    tests = [tuple(protocol.make_split(_Molecules(50), block).test) for block in protocol.blocks()]  # type: ignore[arg-type]
    assert len(set(tests)) == 25


def test_protocol_p_is_the_plain_split_of_each_seed(table: pd.DataFrame) -> None:
    molecules = load_molecules(table)
    protocol = Protocol.model_validate({"name": "P", **PROTOCOLS["P"]})
    for block in protocol.blocks():
        assert np.array_equal(
            protocol.make_split(molecules, block).test, make_split(molecules, SplitSettings(), block.split).test
        )


def test_more_folds_than_molecules() -> None:
    protocol = Protocol(kind="cross-validation", splits=1, folds=5)
    with pytest.raises(ConfigError, match="3 molecules cannot be divided into 5 folds"):
        protocol.make_split(_Molecules(3), protocol.blocks()[0])  # type: ignore[arg-type]


class _Molecules:
    classes = None

    def __init__(self, n: int) -> None:
        self._n, self.target = n, np.arange(float(n))

    def __len__(self) -> int:
        return self._n
