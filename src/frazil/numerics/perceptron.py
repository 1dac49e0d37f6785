"""A residual multilayer perceptron, with a backward pass written by hand for half precision.

The same network may be run in two ways. In full precision it is plain torch, differentiable as often as one likes. In
bfloat16 every matrix product takes bfloat16 numbers and adds them up in float32, weights stay float32, and one autograd
function holds forward and backward pass, so that nothing is stored but one activation per layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class ResidualPerceptron(nn.Module):
    """``h0 = relu(E [f, c] + e)``, ``h = relu(h + W h + b)`` for every hidden layer, ``y = O h + o``.

    The inputs are points that share a context within their group (the pixels of one image share its latent), so the
    context enters the first layer once per group instead of being copied to every point.

    Args:
        features: numbers per point. context: numbers per group. width: units per layer. layers: residual layers.
        outputs: numbers returned per point.
    """

    def __init__(self, features: int, context: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.features = features
        self.entry = nn.Linear(features + context, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.output = nn.Linear(width, outputs)

    def weights(self, precision: torch.dtype | None = None) -> PerceptronWeights:
        """The weights of every point, cast once so that many pieces of a batch can share them.

        Args:
            precision: of the matrix products, such as `torch.bfloat16`; None for that of the parameters.
        """
        hidden = [layer for layer in self.hidden if isinstance(layer, nn.Linear)]
        matrices = [self.entry.weight[:, : self.features], self.output.weight]
        identity = torch.eye(self.output.in_features).to(self.output.weight)
        # h + W h = (1 + W) h: one product, and no second look at h
        matrices += [identity + layer.weight for layer in hidden]
        if precision is not None:
            matrices = [matrix.to(precision) for matrix in matrices]
        return PerceptronWeights(
            matrices[0], matrices[1], self.output.bias, matrices[2:], [layer.bias for layer in hidden]
        )

    def entry_bias(self, context: Float[Tensor, "groups context"]) -> Float[Tensor, "groups width"]:
        """What a group's context and the bias add to the first layer of all its points."""
        return context @ self.entry.weight[:, self.features :].mT + self.entry.bias

    def forward(
        self, features: Float[Tensor, "groups points features"], context: Float[Tensor, "groups context"]
    ) -> Float[Tensor, "groups points outputs"]:
        """The network at every point, in the precision of its weights."""
        return self.weights()(features, self.entry_bias(context))


@final
@dataclass(frozen=True)
class PerceptronWeights:
    """The weights of a `ResidualPerceptron` that all points share.

    Attributes:
        entry: first layer without the columns of the context. output, output_bias: last layer.
        hidden, hidden_biases: residual layers; the matrices are 1 + W.
    """

    entry: Float[Tensor, "width features"]
    output: Float[Tensor, "outputs width"]
    output_bias: Float[Tensor, " outputs"]
    hidden: Sequence[Tensor]
    hidden_biases: Sequence[Tensor]

    @property
    def precision(self) -> torch.dtype:
        """Of the matrix products; the features have to be given in it."""
        return self.entry.dtype

    def tensors(self) -> list[Tensor]:
        """All of them, in the order of the fields."""
        return [self.entry, self.output, self.output_bias, *self.hidden, *self.hidden_biases]

    def before_output(
        self, features: Float[Tensor, "groups points features"], bias: Float[Tensor, "groups width"]
    ) -> Float[Tensor, "groups points width"]:
        """The last hidden layer, in which the network is linear."""
        h = torch.relu(features @ self.entry.mT + bias[:, None])
        for weight, shift in zip(self.hidden, self.hidden_biases, strict=True):
            h = torch.relu(nn.functional.linear(h, weight, shift))
        return h

    def __call__(
        self, features: Float[Tensor, "groups points features"], bias: Float[Tensor, "groups width"]
    ) -> Float[Tensor, "groups points outputs"]:
        """The network at every point.

        Args:
            bias: of the first layer, see `ResidualPerceptron.entry_bias`.
        """
        if self.precision == self.output_bias.dtype:
            return nn.functional.linear(self.before_output(features, bias), self.output, self.output_bias)
        return _HalfPrecisionPass.apply(features, bias, *self.tensors())


class _HalfPrecisionPass(torch.autograd.Function):
    """The network of `PerceptronWeights` with matrix products in the dtype of the features."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, bias: Tensor, entry: Tensor, output: Tensor, output_bias: Tensor, *rest: Tensor
    ) -> Tensor:
        low = features.dtype
        groups, points, _ = features.shape
        flat = features.reshape(groups * points, -1)
        weights, shifts = rest[: len(rest) // 2], rest[len(rest) // 2 :]
        h = bias.to(low)[:, None].expand(groups, points, -1).reshape(groups * points, -1).contiguous()
        h.addmm_(flat, entry.mT).relu_()
        activations = [h]
        for weight, shift in zip(weights, shifts, strict=True):
            h = nn.functional.linear(h, weight, shift.to(low)).relu_()
            activations.append(h)
        ctx.save_for_backward(flat, entry, output, *weights, *activations)
        ctx.groups, ctx.full = groups, bias.dtype
        return (h @ output.mT).to(output_bias.dtype).add_(output_bias).view(groups, points, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, entry, output, *rest = ctx.saved_tensors
        count = (len(rest) - 1) // 2
        weights, activations = rest[:count], rest[count:]
        slope = gradients[0].reshape(flat.shape[0], -1)
        low_slope = slope.to(flat.dtype)
        of_weights: list[Tensor] = []
        of_shifts: list[Tensor] = []
        # gradient of what each layer returns, then of what goes into its relu; sums are carried in float32 inside, and
        # asking for a float32 result would copy the whole matrix first
        grad = low_slope @ output
        for layer in range(count - 1, -1, -1):
            grad = torch.ops.aten.threshold_backward(grad, activations[layer + 1], 0)
            of_weights.insert(0, grad.mT @ activations[layer])
            of_shifts.insert(0, grad.sum(0).to(ctx.full))
            grad = grad @ weights[layer]
        grad = torch.ops.aten.threshold_backward(grad, activations[0], 0)
        return (
            (grad @ entry).view(ctx.groups, -1, flat.shape[1]) if ctx.needs_input_grad[0] else None,
            grad.view(ctx.groups, -1, grad.shape[1]).sum(1).to(ctx.full),
            grad.mT @ flat,
            low_slope.mT @ activations[-1],
            slope.sum(0),
            *of_weights,
            *of_shifts,
        )
