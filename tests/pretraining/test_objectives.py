"""What pretraining asks of the encoder."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny_config

from moltune.models.molformer.modeling import MolformerLMHead
from moltune.pretraining.objectives import IGNORED, Encoded, MaskedLanguageModel, Regression, mask_tokens

MASK = 3


def test_objectives_need_torch_and_transformers_alone() -> None:
    """So that a recipe can run on a machine where nothing else is installed."""
    code = (
        "import sys\n"
        "for name in ('pydantic', 'rdkit', 'pandas', 'sklearn', 'peft'):\n"
        "    sys.modules[name] = None\n"
        "from moltune.models import molformer\n"
        "from moltune.models.pooling import mean_pool\n"
        "from moltune.pretraining import muon, objectives\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def masked(share: float, maskable: torch.Tensor, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 100, maskable.shape, generator=generator)
    corrupted, labels = mask_tokens(ids, maskable, vocabulary=(4, 100), mask_id=MASK, share=share, generator=generator)
    return ids, corrupted, labels


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_proportions(share: float) -> None:
    """Of the chosen tokens 80 % are masked, 10 % random, 10 % left: within five standard errors."""
    ids, corrupted, labels = masked(share, torch.ones(1000, 200, dtype=torch.bool))
    chosen = labels != IGNORED
    n = int(chosen.sum())
    assert float(chosen.float().mean()) == pytest.approx(share, abs=5 * (share * (1 - share) / 200_000) ** 0.5)
    for expected, found in (
        (0.8, corrupted[chosen] == MASK),
        # A random token is the original one now and then.
        (0.1 + 0.1 / 96, corrupted[chosen] == ids[chosen]),
    ):
        assert float(found.float().mean()) == pytest.approx(expected, abs=5 * (expected * (1 - expected) / n) ** 0.5)
    drawn = corrupted[chosen & (corrupted != MASK) & (corrupted != ids)]
    assert int(drawn.min()) == 4
    assert int(drawn.max()) == 99


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_what_is_not_maskable_stays(seed: int, share: float, allowed: float) -> None:
    maskable = torch.rand(6, 20, generator=torch.Generator().manual_seed(seed)) < allowed
    ids, corrupted, labels = masked(share, maskable, seed)
    chosen = labels != IGNORED
    assert not (chosen & ~maskable).any()
    assert torch.equal(corrupted[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])


def test_masking_is_reproducible() -> None:
    maskable = torch.ones(5, 30, dtype=torch.bool)
    assert all(
        torch.equal(one, two) for one, two in zip(masked(0.3, maskable, 7), masked(0.3, maskable, 7), strict=True)
    )
    assert not torch.equal(masked(0.3, maskable, 7)[2], masked(0.3, maskable, 8)[2])


def encoded(batch: int = 6, targets: torch.Tensor | None = None, intact: torch.Tensor | None = None) -> Encoded:
    generator = torch.Generator().manual_seed(0)
    return Encoded(
        hidden=torch.randn(batch, 7, 32, generator=generator, requires_grad=True),
        pooled=torch.randn(batch, 32, generator=generator, requires_grad=True),
        labels=torch.full((batch, 7), IGNORED),
        intact=torch.ones(batch, dtype=torch.bool) if intact is None else intact,
        targets={} if targets is None else {"mtr": targets},
    )


def test_regression_is_the_mean_over_known_values_of_intact_molecules() -> None:
    targets = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    targets[0, 1] = torch.nan
    targets[2] = torch.nan
    intact = torch.tensor([True, True, True, False, True, True])
    objective = Regression("mtr", 32, 4)
    state = encoded(6, targets, intact)
    error = objective.out_proj(state.pooled) - targets
    known = [(row, column) for row in (0, 1, 2, 4, 5) for column in range(4) if torch.isfinite(targets[row, column])]
    expected = sum(float(error.detach()[row, column]) ** 2 for row, column in known) / len(known)
    loss = objective(state)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert state.pooled.grad is not None
    assert torch.isfinite(state.pooled.grad).all()
    assert (state.pooled.grad[[2, 3]] == 0).all()
    assert (state.pooled.grad[[0, 1, 4, 5]] != 0).any(dim=1).all()


@pytest.mark.parametrize("case", ["nothing known", "nothing intact"])
def test_nothing_to_learn_from_is_zero_and_attached(case: str) -> None:
    targets = torch.full((6, 4), torch.nan) if case == "nothing known" else torch.zeros(6, 4)
    intact = torch.ones(6, dtype=torch.bool) if case == "nothing known" else torch.zeros(6, dtype=torch.bool)
    loss = Regression("mtr", 32, 4)(encoded(6, targets, intact))
    assert loss.item() == 0
    loss.backward()
    masked_loss = MaskedLanguageModel(MolformerLMHead(tiny_config(vocab_size=50)))(encoded())
    assert masked_loss.item() == 0
    masked_loss.backward()


def test_masked_language_model_looks_at_masked_tokens_only() -> None:
    objective = MaskedLanguageModel(MolformerLMHead(tiny_config(vocab_size=50)))
    state = encoded()
    state.labels[1, 2] = 17
    state.labels[4, 0] = 3
    loss = objective(state)
    logits = objective.lm_head(state.hidden).log_softmax(-1).detach()
    assert loss.item() == pytest.approx(-float(logits[1, 2, 17] + logits[4, 0, 3]) / 2, rel=1e-5)
    loss.backward()
    assert state.hidden.grad is not None
    touched = state.hidden.grad.abs().sum(-1) > 0
    assert touched.nonzero().tolist() == [[1, 2], [4, 0]]
