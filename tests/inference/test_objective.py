"""The parts of the loss."""

import pytest
import torch

from frazil.inference.objective import BETA_SCHEDULES, BetaSchedule, latent_price, squared_error
from frazil.inference.streamed import one_thread_per_operation, streamed_mean_error
from frazil.numerics.fourier import half_plane, images_to_coefficients


def test_squared_error_is_the_mean_over_the_full_plane() -> None:
    layout = half_plane(8)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    a, b = images_to_coefficients(images, layout)
    difference = torch.fft.fft2(images[0] - images[1]).abs().square()
    index = torch.fft.fftfreq(8, 1 / 8)
    circle = torch.hypot(index[:, None], index) < 3.5
    assert torch.allclose(squared_error(a, b, layout.weight.double()), difference[:, circle].mean(-1))


@pytest.mark.parametrize(
    ("name", "images", "beta"),
    [("a", 0, 0.001), ("a", 500_000, 7.5005), ("b", 500_000, 10), ("c", 900_000, 18), ("d", 3_000_000, 11.5)],
)
def test_named_schedules_rise_linearly(name: str, images: int, beta: float) -> None:
    assert BETA_SCHEDULES[name](images) == pytest.approx(beta)


def test_a_constant_schedule_stays() -> None:
    assert BetaSchedule(0.125, 0.125)(1e9) == 0.125


def test_a_smaller_divergence_is_cheaper() -> None:
    low, high = latent_price(torch.tensor(1.0), 0.5, 100), latent_price(torch.tensor(2.0), 0.5, 100)
    assert low.item() == pytest.approx(0.005)
    assert high > low


def test_control_pulls_the_divergence_towards_beta() -> None:
    assert latent_price(torch.tensor(5.0), 5.0, 100, 2.0) == 0
    assert latent_price(torch.tensor(3.0), 5.0, 100, 2.0).item() == pytest.approx(0.08)


# ------------------------------------------------------------------------------------------------------ streamed error


def cubic(weight: torch.Tensor):
    return lambda rows, tensors: ((tensors[0] @ weight) ** 3).sum(-1)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("images_at_once", [1, 3, 7])
def test_streaming_changes_neither_value_nor_gradient(images_at_once: int, workers: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    mean = streamed_mean_error(cubic(weight), (x,), [weight], images_at_once, workers)
    plain = ((x @ weight) ** 3).sum(-1).mean()
    assert torch.allclose(mean, plain)
    streamed = torch.autograd.grad(2 * mean, (x, weight))
    for a, b in zip(streamed, torch.autograd.grad(2 * plain, (x, weight)), strict=True):
        assert torch.allclose(a, b)


@pytest.mark.parametrize("images_at_once", [1, 4])
def test_an_image_without_a_finite_error_makes_the_mean_say_so(images_at_once: int) -> None:
    x = torch.ones(6, 3)
    x[2, 1] = torch.nan
    weight = torch.ones(3, 2, requires_grad=True)
    assert streamed_mean_error(cubic(weight), (x,), [weight], images_at_once).isnan()


def test_nothing_is_differentiated_when_no_gradient_is_wanted() -> None:
    with torch.no_grad():
        mean = streamed_mean_error(cubic(torch.ones(3, 2)), (torch.ones(4, 3),), [], 2)
    assert mean == 54


def test_one_thread_per_operation_holds_within_the_block() -> None:
    before = torch.get_num_threads()
    with one_thread_per_operation() as threads:
        assert threads == before
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("workers", [1, 2])
def test_streaming_is_repeatable_bit_for_bit(workers: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(40, 8), torch.randn(8, 8, requires_grad=True)

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(streamed_mean_error(cubic(weight), (x,), [weight], 1, workers), weight)[0]

    first = gradient()
    assert all(torch.equal(first, gradient()) for _ in range(5))
