"""Committees whose members differ, without any training."""

import pytest
import torch

from tests.training.committee.untrained import CPU, UNTRAINED
from training.committee.committee import Committee
from training.committee.ensemble import Ensemble
from training.networks.build import build_network


@pytest.fixture(scope="session")
def weights():
    """Of three members whose answers differ; never trained."""
    made = []
    for member in range(UNTRAINED.members):
        torch.manual_seed(member)
        network = build_network(UNTRAINED).train()
        with torch.no_grad():
            network.head.weight.mul_(20)  # answers that are far from even
            network(torch.rand(4, 3, 64, 64))  # moves the running statistics
        made.append(network.state_dict())
    return made


@pytest.fixture(scope="session", params=["openvino", "torch"])
def untrained(weights, request):
    return Committee(Ensemble(weights, UNTRAINED, device=CPU), version=4, engine=request.param)
