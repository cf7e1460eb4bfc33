"""Layers that networks for images share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]


class FrozenBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics, scale and shift are constants.

    All four are buffers, each `(num_features,)`: nothing trains or updates them, in no mode. State
    dicts of `nn.BatchNorm2d` load strictly; `num_batches_tracked` is left out.

    Args:
        num_features: Channels of the input.
        eps: Added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (
            ("weight", 1.0),
            ("bias", 0.0),
            ("running_mean", 0.0),
            ("running_var", 1.0),
        ):
            self.register_buffer(name, torch.full((num_features,), value))
        self.register_load_state_dict_pre_hook(self._forget_count)

    def forward(self, x: Tensor) -> Tensor:
        """`(B, num_features, H, W)` to the same shape."""
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )

    @staticmethod
    def _forget_count(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
        state.pop(f"{prefix}num_batches_tracked", None)


def freeze_statistics(network: nn.Module) -> None:
    """Normalise with the running statistics of every batch norm, and leave them as they are.

    Scale and shift train on. `network.train()` undoes it, so it is called after that.
    """
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


class DropPath(nn.Module):
    """Stochastic depth: in training, the residual branch of a sample is dropped as a whole.

    Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016; `probability` is the share of
    the samples whose branch is dropped, and the branches that stay are divided by the share that
    stays, so that nothing changes in evaluation.

    Raises:
        ValueError: `probability` is not in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0 <= probability < 1:
            raise ValueError(f"probability {probability}: must be at least 0 and below 1.")
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        """`(B, …)` to the same shape, zero or scaled sample by sample."""
        if not self.training or self.probability == 0:
            return branch
        kept = 1 - self.probability
        shape = [len(branch), *[1] * (branch.dim() - 1)]
        return branch * branch.new_empty(shape).bernoulli_(kept).div_(kept)

    def extra_repr(self) -> str:
        """The argument, for `print(network)`."""
        return str(self.probability)


class Mlp(nn.Module):
    """The two linear layers of a transformer block, with GELU (of the error function) between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """`(…, width)` to the same shape."""
        return self.fc2(functional.gelu(self.fc1(x)))
