"""The macro supernet in PyTorch, as one would write it there: the peer of `supernet_step.py`.

It computes what `nhn_tf.models.MacroSupernet` does and takes the same training step. Eager modules; Python reads the
genes and calls what they name. Maps are channels last, 1x1 convolutions products of matrices, a factorized
reduction is one 2x2 convolution, the optimizer is fused.

Letters: B batch, H W spatial, C channels, G genes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from keras import ops
from torch import nn
from torch.nn import functional

from nhn_tf.layers.batch_norm import EPSILON, MOMENTUM
from nhn_tf.models import MacroSupernet
from nhn_tf.settings import GradientConfig
from nhn_tf.values.space import Op, op_named


class TorchSupernet(nn.Module):
    """Images float [B, 3, H, W] and genes int [G] to logits [B, classes]; starts from the weights of `ours`."""

    def __init__(self, ours: MacroSupernet):
        super().__init__()
        self.space = space = ours.space
        filters = ours.filters
        self.stem = nn.Sequential(nn.Conv2d(3, filters, 3, padding=1, bias=False), _batch_norm(filters))
        branches = lambda: nn.ModuleList(_branch(op_named(name), filters) for name in space.ops)  # noqa: E731
        self.mixed_ops = nn.ModuleList(branches() for _ in range(space.num_layers))
        self.skip_bns = nn.ModuleList(_batch_norm(filters) for _ in range(1, space.num_layers))
        self.reductions = nn.ModuleList(
            nn.ModuleList(nn.Sequential(Reduction(filters), _batch_norm(filters)) for _ in range(layer + 2))
            for layer in space.transitions
        )
        height, width, _ = ours.global_pool.kernel.shape
        self.pool = nn.Parameter(torch.empty(filters, height, width))
        self.logits = nn.Linear(filters, ours.num_classes)
        self.to(memory_format=torch.channels_last)
        with torch.no_grad():
            for tensor, array, axes in self.pairs(ours):
                tensor.copy_(torch.from_numpy(ops.convert_to_numpy(array).transpose(axes).copy()))

    def forward(self, x: torch.Tensor, genes: list[int]) -> torch.Tensor:
        outputs = [self.stem(x)]
        for layer, branches in enumerate(self.mixed_ops):
            y = branches[genes[layer]](outputs[-1])
            if layer:
                taken = (x for x, bit in zip(outputs, genes[self.space.skip_slice(layer)], strict=False) if bit)
                y = self.skip_bns[layer - 1](sum(taken, start=y))
            outputs.append(y)
            if layer in self.space.transitions:
                reductions = self.reductions[self.space.transitions.index(layer)]
                outputs = [reduction(x) for reduction, x in zip(reductions, outputs, strict=True)]
        return self.logits((outputs[-1] * self.pool).sum((2, 3)))

    def pairs(self, ours: MacroSupernet) -> Iterator[tuple[torch.Tensor, Any, tuple[int, ...]]]:
        """Each tensor of a PyTorch supernet, our array of the same numbers, and the order of its axes in PyTorch."""
        yield from ((self.stem[0].weight, ours.stem_conv.kernel, KERNEL), *_of_batch_norm(self.stem[1], ours.stem_bn))
        for branches, mixed in zip(self.mixed_ops, ours.mixed_ops, strict=True):
            normalized = [op.name for op in mixed.ops if op.has_batch_norm]
            for number, (branch, op) in enumerate(zip(branches, mixed.ops, strict=True)):
                yield branch[0].weight, mixed.in_kernel[number], KERNEL
                yield from _of_batch_norm(branch[1], mixed.in_bn, number)
                ours_of_op = [weight for weight in mixed.weights if weight.name.startswith(f"{op.name}_")]
                for module, weight in zip(branch[3:], ours_of_op, strict=False):
                    yield module.weight, weight, DEPTHWISE if weight.name.endswith("depthwise") else KERNEL
                if op.has_batch_norm:
                    yield from _of_batch_norm(branch[-2], mixed.op_bn, normalized.index(op.name))
        for bn, our_bn in zip(self.skip_bns, ours.skip_bns, strict=True):
            yield from _of_batch_norm(bn, our_bn)
        for number, reductions in enumerate(self.reductions):
            for index, (reduction, bn) in enumerate(reductions):
                our_reduction = ours.reductions[number][str(index)]
                yield reduction.a, our_reduction.kernel_a, KERNEL
                yield reduction.b, our_reduction.kernel_b, KERNEL
                yield from _of_batch_norm(bn, ours.reduction_bns[number][str(index)])
        yield self.pool, ours.global_pool.kernel, (2, 0, 1)
        yield self.logits.weight, ours.logits.kernel, (1, 0)
        yield self.logits.bias, ours.logits.bias, (0,)


class Trainer:
    """The training step of `nhn_tf.training.optimizers.Nesterov`, and the accuracy of a batch; from and to NumPy."""

    def __init__(self, ours: MacroSupernet, config: GradientConfig, rate: float):
        self.model, self.l2, self.clip_norm = TorchSupernet(ours), config.l2, config.clip_norm
        self.parameters = list(self.model.parameters())
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer = torch.optim.SGD(self.parameters, rate, momentum=config.momentum, nesterov=True, fused=True)

    def step(self, images: np.ndarray, labels: np.ndarray, genes: np.ndarray) -> float:
        """Trains on images float32 [B, H, W, C] and labels int [B]; returns the loss before."""
        self.model.train()
        # Kept, not dropped: L2 and momentum move the weights of ops that are not chosen, too.
        self.optimizer.zero_grad(set_to_none=False)
        loss = functional.cross_entropy(
            self.model(_channels_last(images), genes.tolist()), torch.from_numpy(labels).long()
        )
        loss.backward()
        gradients = [parameter.grad for parameter in self.parameters]
        with torch.no_grad():
            torch._foreach_add_(gradients, self.parameters, alpha=2 * self.l2)
        nn.utils.clip_grad_norm_(self.parameters, self.clip_norm, foreach=True)
        self.optimizer.step()
        return loss.item()

    def accuracy(self, images: np.ndarray, labels: np.ndarray, genes: np.ndarray) -> float:
        """Share of the images that is classified right, by moving statistics."""
        return float((self.predict(images, genes).argmax(-1) == labels).mean())

    def predict(self, images: np.ndarray, genes: np.ndarray) -> np.ndarray:
        """Logits [B, classes]."""
        self.model.eval()
        with torch.inference_mode():
            return self.model(_channels_last(images), genes.tolist()).numpy()


class Reduction(nn.Module):
    """Two 1x1 convolutions of stride 2, the second on the map shifted by one pixel, as one 2x2 convolution."""

    def __init__(self, filters: int):
        super().__init__()
        self.a = nn.Parameter(torch.empty((filters + 1) // 2, filters, 1, 1))
        self.b = nn.Parameter(torch.empty(filters // 2, filters, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        corners = functional.pad(self.a, (0, 1, 0, 1)), functional.pad(self.b, (1, 0, 1, 0))
        return functional.conv2d(x, torch.cat(corners), stride=2)


class Pointwise(nn.Conv2d):
    """A 1x1 convolution as a product of matrices, which is faster on a CPU."""

    def __init__(self, filters: int):
        super().__init__(filters, filters, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)


KERNEL, DEPTHWISE = (3, 2, 0, 1), (2, 3, 0, 1)


def _branch(op: Op, filters: int) -> nn.Sequential:
    """1x1 convolution, BN, ReLU, then an op of ENAS's."""
    conv = functools.partial(nn.Conv2d, filters, filters, op.kernel_size, padding=op.kernel_size // 2, bias=False)
    normalized = lambda: (_batch_norm(filters), nn.ReLU(inplace=True))  # noqa: E731
    layers = {
        "conv": lambda: (conv(), *normalized()),
        "separable_conv": lambda: (conv(groups=filters), Pointwise(filters), *normalized()),
        "avg_pool": lambda: (nn.AvgPool2d(op.kernel_size, 1, op.kernel_size // 2, count_include_pad=False),),
        "max_pool": lambda: (nn.MaxPool2d(op.kernel_size, 1, op.kernel_size // 2),),
    }
    return nn.Sequential(Pointwise(filters), *normalized(), *layers[op.kind]())


def _batch_norm(filters: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(filters, eps=EPSILON, momentum=1 - MOMENTUM)


def _of_batch_norm(bn: nn.BatchNorm2d, ours: Any, number: int | None = None) -> Iterator[tuple[torch.Tensor, Any, Any]]:
    """As `TorchSupernet.pairs`; `number` is that of a set of a stacked one."""
    names = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for theirs, name in names.items():
        array = getattr(ours, name)
        yield getattr(bn, theirs), array if number is None else array[number], (0,)


def _channels_last(images: np.ndarray) -> torch.Tensor:
    """[B, H, W, C] seen as [B, C, H, W], nothing copied."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)
