"""Batch norms folded into convolutions."""

from dataclasses import replace

import pytest
import torch

from tests.training.committee.untrained import UNTRAINED
from training.networks.batch_norms import fold_batch_norms
from training.networks.build import build_network


@pytest.mark.parametrize("name", ["lite0", "unet"])
def test_folding_the_batch_norms_changes_no_answer(name):
    torch.manual_seed(0)
    network = build_network(replace(UNTRAINED, network=name))
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))  # moves the running statistics
        network.eval()
        x = torch.rand(1, 3, 64, 64)
        before = network(x)
        fold_batch_norms(network)
        torch.testing.assert_close(network(x), before, atol=1e-3, rtol=1e-3)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
