"""torch.compile takes the whole forward and backward pass as one graph, whatever the shapes."""

from __future__ import annotations

import shutil

import pytest
import torch
from molformer_cases import batch_of, sharpen, tiny_config

from moltune.models.molformer import MolformerModel

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="torch.compile needs a C compiler"),
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "training with redraw"])
def test_compiled_forward_and_backward(training: bool) -> None:
    torch._dynamo.reset()
    model = MolformerModel(tiny_config(num_hidden_layers=1, hidden_dropout_prob=0.0, embedding_dropout_prob=0.0)).train(
        training
    )
    sharpen(model)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for lengths in ([9, 4], [13, 2, 7]):
        batch = batch_of(lengths)
        model.zero_grad()
        pooled = compiled(**batch).pooler_output
        pooled.pow(2).sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        assert len(gradients) == len(list(model.parameters()))
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
        if training:
            # Fresh features at each step, in the compiled model too.
            assert not torch.allclose(compiled(**batch).pooler_output, pooled, atol=1e-3)
            continue
        model.zero_grad()
        expected = model(**batch).pooler_output
        expected.pow(2).sum().backward()
        torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-4, rtol=1e-4)
