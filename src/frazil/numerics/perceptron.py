"""A residual multilayer perceptron, with a backward pass written by hand for half precision.

The same network may be run in two ways. In full precision it is plain torch, differentiable as often as one likes. In
bfloat16 every matrix product takes bfloat16 numbers and adds them up in float32, weights stay float32, and one autograd
function holds forward and backward pass, so that nothing is stored but one activation per layer.
"""

from __future__ import annotations

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

    def before_output(
        self, features: Float[Tensor, "groups points features"], context: Float[Tensor, "groups context"]
    ) -> Float[Tensor, "groups points width"]:
        """The last hidden layer, in which the network is linear. In the precision of its weights."""
        h = torch.relu(features @ self.entry.weight[:, : self.features].mT + self._entry_bias(context)[:, None])
        for layer in self.hidden:
            h = torch.relu(h + layer(h))
        return h

    def forward(
        self,
        features: Float[Tensor, "groups points features"],
        context: Float[Tensor, "groups context"],
        precision: torch.dtype | None = None,
    ) -> Float[Tensor, "groups points outputs"]:
        """The network at every point.

        Args:
            precision: `torch.bfloat16` to multiply in half precision; None for the precision of the weights.
        """
        if precision is None or precision == self.output.weight.dtype:
            return self.output(self.before_output(features, context))
        layers = [parameter for layer in self.hidden for parameter in (layer.weight, layer.bias)]
        return _HalfPrecisionPass.apply(
            features.to(precision),
            self._entry_bias(context),
            self.entry.weight[:, : self.features],
            self.output.weight,
            self.output.bias,
            *layers,
        )

    def _entry_bias(self, context: Tensor) -> Tensor:
        return context @ self.entry.weight[:, self.features :].mT + self.entry.bias


class _HalfPrecisionPass(torch.autograd.Function):
    """The network of `ResidualPerceptron` with matrix products in the dtype of the features."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, bias: Tensor, entry: Tensor, output: Tensor, output_bias: Tensor, *layers: Tensor
    ) -> Tensor:
        low = features.dtype
        groups, points, _ = features.shape
        flat = features.reshape(groups * points, -1)
        entry, output = entry.to(low), output.to(low)
        weights = [weight.to(low) for weight in layers[::2]]
        h = bias.to(low)[:, None].expand(groups, points, -1).reshape(groups * points, -1).contiguous()
        h.addmm_(flat, entry.mT).relu_()
        activations = [h]
        for weight, shift in zip(weights, layers[1::2], strict=True):
            # the residual and the bias are what the product is added to
            h = torch.add(h, shift.to(low)).addmm_(h, weight.mT).relu_()
            activations.append(h)
        ctx.save_for_backward(flat, entry, output, *weights, *activations)
        ctx.groups = groups
        return (h @ output.mT).to(output_bias.dtype).add_(output_bias).view(groups, points, -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, entry, output, *rest = ctx.saved_tensors
        count = (len(rest) - 1) // 2
        weights, activations = rest[:count], rest[count:]
        full, low = gradients[0].dtype, flat.dtype
        slope = gradients[0].reshape(flat.shape[0], -1)
        low_slope = slope.to(low)
        of_output = (low_slope.mT @ activations[-1]).to(full)
        of_layers: list[Tensor] = []
        # grad: gradient of the layer's output, masked in place of the relu it went through
        grad = low_slope @ output
        for layer in range(count - 1, -1, -1):
            grad = torch.ops.aten.threshold_backward(grad, activations[layer + 1], 0)
            of_layers = [(grad.mT @ activations[layer]).to(full), _column_sum(grad, full), *of_layers]
            grad = torch.addmm(grad, grad, weights[layer])
        grad = torch.ops.aten.threshold_backward(grad, activations[0], 0)
        of_entry = (grad.mT @ flat).to(full)
        of_bias = grad.view(ctx.groups, -1, grad.shape[1]).sum(1, dtype=full)
        of_features = (grad @ entry).view(ctx.groups, -1, flat.shape[1]) if ctx.needs_input_grad[0] else None
        return (of_features, of_bias, of_entry, of_output, slope.sum(0), *of_layers)


def _column_sum(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    return matrix.sum(0, dtype=dtype)
