"""AdamW, without what only ``torch.compile`` needs."""

from __future__ import annotations

import inspect
from typing import Any

import torch


class AdamW(torch.optim.AdamW):
    """torch's AdamW, which does not import torch's compiler.

    torch wraps these three methods so that its compiler leaves them alone, and the first call of
    each imports the compiler: 1.4 seconds of each process that trains a member. Nothing is
    compiled here, so what is wrapped does the same.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        return _STEP(self, closure)


_STEP = inspect.unwrap(torch.optim.AdamW.step)
