"""Statistics that span all processes, and batch normalisation with them, on CPUs too.

Two processes with half a batch each must compute what one process computes with the whole batch.
PyTorch's `SyncBatchNorm` does that on GPUs only.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]


class SumOverProcesses(torch.autograd.Function):
    """Sum of any shape over all processes, whose losses depend on it: gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, local: torch.Tensor) -> torch.Tensor:
        """The sum."""
        total = local.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """The sum of the gradients."""
        return SumOverProcesses.forward(ctx, gradients[0])


class CpuSyncBatchNorm(_BatchNorm):
    """Batch normalisation over the batches of all processes, built from differentiable sums.

    Input and output have shape `(batch, channels, *positions)`. State dict and evaluation are
    those of `nn.BatchNorm2d`. Every process must hold equally many samples.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected an input of at least 2 dimensions, found {input.dim()}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise with the statistics of all processes in training, the running ones else."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        positions = [axis for axis in range(input.dim()) if axis != 1]
        world = torch.distributed.get_world_size()
        count = world * input.numel() // input.shape[1]
        # Two sums, not one of x and x^2: E[x^2] - E[x]^2 loses digits where the mean is large.
        mean = SumOverProcesses.apply(input.sum(positions)) / count
        shape = [1, -1] + [1] * (input.dim() - 2)
        centred = input - mean.view(shape)
        variance = SumOverProcesses.apply(centred.square().sum(positions)) / count
        if self.track_running_stats:
            self._update_running(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = (variance + self.eps).rsqrt()
        if self.affine:
            return centred * (scale * self.weight).view(shape) + self.bias.view(shape)
        return centred * scale.view(shape)

    def _update_running(self, mean: torch.Tensor, unbiased_variance: torch.Tensor) -> None:
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked += 1
        momentum = self.momentum
        if momentum is None:  # a cumulative average, as in PyTorch
            momentum = 1.0 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased_variance, momentum)


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """`values`, without their gradient, averaged over the processes that train together."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    total = values.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


def broadcast_state(module: nn.Module) -> None:
    """Give every process the parameters and buffers that the first has."""
    for tensor in module.state_dict().values():
        sent = tensor.flatten().view(torch.uint8)  # as bytes: some dtypes cannot be sent
        torch.distributed.broadcast(sent, 0)
        tensor.copy_(sent.view(tensor.dtype).view_as(tensor))


BUCKET = 1 << 23
"""Numbers of gradients that travel together: 32 MiB of float32."""


def average_gradients(parameters: Sequence[torch.Tensor]) -> None:
    """Average gradients over the processes that train together, in place.

    A parameter that took no part in the loss of one process counts there as a gradient of zero.
    One that took part in none keeps no gradient, so that an optimizer passes it over as it does
    where one process trains alone. `DistributedDataParallel` fails at the first, unless it walks
    through the graph at every step, and knows neither modules that are called in parts nor
    gradients of gradients.

    Args:
        parameters: The same, in the same order, on every process.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    if not parameters:
        return
    missing = [place for place, parameter in enumerate(parameters) if parameter.grad is None]
    holders = torch.ones(len(parameters), device=parameters[0].device)
    if missing:
        holders[missing] = 0
    torch.distributed.all_reduce(holders)
    # Looking waits for the device; a process that has every gradient need not look.
    somewhere = holders.tolist() if missing else [1.0] * len(parameters)
    bucket: list[torch.Tensor] = []
    for parameter in itertools.compress(parameters, somewhere):
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        full = sum(gradient.numel() for gradient in bucket) + parameter.grad.numel() > BUCKET
        if bucket and (full or bucket[0].dtype != parameter.grad.dtype):
            _average(bucket)
            bucket = []
        bucket.append(parameter.grad)
    _average(bucket)


def _average(tensors: list[torch.Tensor]) -> None:
    """Average tensors of one dtype over the processes, in place and as one message."""
    if not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    flat /= torch.distributed.get_world_size()
    torch.distributed.all_reduce(flat)
    sizes = [tensor.numel() for tensor in tensors]
    views = [part.view_as(to) for part, to in zip(flat.split(sizes), tensors, strict=True)]
    torch._foreach_copy_(tensors, views)  # pyright: ignore


def synchronise_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch normalisation in `module` by one that spans all processes."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, CpuSyncBatchNorm):
            child.__class__ = CpuSyncBatchNorm  # same attributes, another forward
        else:
            setattr(module, name, synchronise_batch_norm(child, device))
    return module
