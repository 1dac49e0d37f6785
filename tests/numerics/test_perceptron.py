"""The residual perceptron and its half precision twin."""

from functools import partial

import pytest
import torch

from frazil.numerics.perceptron import ResidualPerceptron


def network_and_inputs() -> tuple[ResidualPerceptron, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return ResidualPerceptron(12, 3, 32, 3, 2), torch.randn(4, 50, 12), torch.randn(4, 3)


def low(network: ResidualPerceptron, features: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """The network in half precision."""
    return network.weights(torch.bfloat16)(features.to(torch.bfloat16), network.entry_bias(context))


def test_it_is_the_textbook_residual_network() -> None:
    network, features, context = network_and_inputs()
    joined = torch.cat((features, context[:, None].expand(-1, 50, -1)), dim=-1)
    h = torch.relu(network.entry(joined))
    for layer in network.hidden:
        h = torch.relu(h + layer(h))
    assert torch.allclose(network(features, context), network.output(h), atol=1e-6)


def test_half_precision_gives_the_values_of_full_precision_to_its_rounding() -> None:
    network, features, context = network_and_inputs()
    full, half = network(features, context), low(network, features, context)
    assert half.dtype == torch.float32
    assert (full - half).norm() < 0.01 * full.norm()


def test_half_precision_gives_the_gradients_of_full_precision_to_its_rounding() -> None:
    network, features, context = network_and_inputs()
    target = torch.randn(4, 50, 2)
    gradients = []
    for precision in (None, torch.bfloat16):
        leaves = [features.clone().requires_grad_(), context.clone().requires_grad_()]
        run = network if precision is None else partial(low, network)
        error = (run(*leaves) - target).square().mean()
        gradients.append(torch.autograd.grad(error, leaves + list(network.parameters())))
    for full, half in zip(*gradients, strict=True):
        assert half.dtype == torch.float32
        # rounding moves some units across the corner of their relu
        assert (full - half).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("groups", [1, 4])
def test_half_precision_is_repeatable_bit_for_bit(groups: int) -> None:
    network, features, context = network_and_inputs()

    def gradients() -> list[torch.Tensor]:
        error = low(network, features[:groups], context[:groups]).square().mean()
        return list(torch.autograd.grad(error, list(network.parameters())))

    assert all(torch.equal(a, b) for a, b in zip(gradients(), gradients(), strict=True))
