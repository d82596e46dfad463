import sys
from dataclasses import replace

import torch

from tests.training.discs import disc_examples
from tests.training.trained import CPU, TINY
from training.fitting import fit
from training.fitting.adamw import AdamW


def learnt():
    config = replace(TINY, network="lite0", steps=2, thaw=0.5)
    weights, _ = fit.fit_member(disc_examples(3), config, 0, CPU)
    return weights


def test_a_member_learns_what_it_does_with_torch_s_own_bit_by_bit(monkeypatch):
    ours = learnt()
    monkeypatch.setattr(fit, "AdamW", torch.optim.AdamW)
    torchs = learnt()
    assert all(torch.equal(ours[name], torchs[name]) for name in torchs)


def test_a_step_does_without_torch_s_compiler(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of it fails
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = AdamW([weight], lr=0.1, weight_decay=0.0, fused=True)
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step()
    assert torch.allclose(weight.detach(), torch.full((2,), 0.9))
