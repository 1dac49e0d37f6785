"""The comparison of an image with a slice: its derivatives against finite differences, its compiled loop against its twin."""

import dataclasses

import pytest
import torch

from frazil.numerics.fourier import half_plane
from frazil.numerics.masks import soft_sphere
from frazil.numerics.normal_equations import (
    Trials,
    model_and_derivative,
    normal_equations,
    normal_equations_by_parts,
)
from frazil.numerics.rotations import from_rotation_vector, random_rotations
from frazil.numerics.spectrum_table import table_layout, table_of_volumes

BOXES = pytest.mark.parametrize("box", [24, 25])


def some(box: int, rows: int = 9, images: int = 4):
    generator = torch.Generator().manual_seed(box)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    plane, layout = half_plane(box), table_layout((box - 1) // 2)
    volume = draw(box, box, box) * soft_sphere(box, 0.3 * box, 2)
    table = table_of_volumes(volume[None].float(), layout)
    phase = torch.tensor([2.0, 0.3, 2.2, -0.1, 12.0]) / torch.tensor([box**2] * 3 + [box**4, 100])
    trials = Trials(
        image=torch.arange(rows) % images,
        rotation=random_rotations(rows, generator, torch.float64),
        turns=0.03 * draw(rows, 2),
        phase=phase.double() * (1 + 0.1 * draw(rows, 5)),
        envelope=torch.linspace(0, 1e-3, rows, dtype=torch.float64),
        group=torch.arange(rows) % 2,
        amplitude=1 + 0.1 * draw(rows).abs(),
    )
    gain = 1 + torch.rand(2, plane.count, generator=generator)
    values = 30 * draw(images, plane.count, 2).float()
    return values, trials, table, layout, plane, gain


@BOXES
def test_the_compiled_loop_equals_its_twin(box):
    values, trials, table, layout, plane, gain = some(box)
    here = normal_equations(values, trials, table, layout, plane, gain)
    there = normal_equations_by_parts(values.double(), trials, table.double(), layout, plane, gain.double())
    for name in ("log_likelihood", "gradient", "matrix"):
        expected = getattr(there, name)
        size = expected.abs().amax(0, keepdim=True) if name != "log_likelihood" else expected.abs().max()
        error = (getattr(here, name) - expected).abs() / size.clamp(min=1e-9 * float(expected.abs().max()))
        assert float(error.max()) < 2e-4, name


@BOXES
def test_a_band_is_the_first_coefficients(box):
    values, trials, table, layout, plane, gain = some(box)
    low = plane.within(5)
    cut = values[:, : low.count]
    a = normal_equations(cut, trials, table, layout, low, gain[:, : low.count])
    b = normal_equations_by_parts(cut, trials, table, layout, low, gain[:, : low.count])
    torch.testing.assert_close(a.log_likelihood, b.log_likelihood, rtol=1e-4, atol=1e-3)


def moved(trials: Trials, parameter: int, step: float) -> Trials:
    rows = len(trials.image)
    if parameter < 3:
        vector = torch.zeros(rows, 3, dtype=torch.float64)
        vector[:, parameter] = step
        return dataclasses.replace(trials, rotation=from_rotation_vector(vector) @ trials.rotation)
    if parameter < 5:
        turns = trials.turns.clone()
        turns[:, parameter - 3] += step
        return dataclasses.replace(trials, turns=turns)
    if parameter == 5:
        phase = trials.phase.clone()
        phase[:, 0] += step
        phase[:, 2] += step
        return dataclasses.replace(trials, phase=phase)
    return dataclasses.replace(trials, amplitude=trials.amplitude * torch.tensor(step, dtype=torch.float64).exp())


@BOXES
@pytest.mark.parametrize("parameter", range(7))
def test_the_gradient_is_that_of_finite_differences(box, parameter):
    values, trials, table, layout, plane, gain = some(box)
    double = (values.double(), table.double(), gain.double())
    step = 1e-7 / box**2 if parameter == 5 else 1e-7

    def likelihood(at: Trials) -> torch.Tensor:
        return normal_equations_by_parts(double[0], at, double[1], layout, plane, double[2]).log_likelihood

    slope = (likelihood(moved(trials, parameter, step)) - likelihood(moved(trials, parameter, -step))) / (2 * step)
    found = normal_equations(values, trials, table, layout, plane, gain).gradient[:, parameter]
    torch.testing.assert_close(found, slope, rtol=1e-3, atol=2e-4 * float(slope.abs().max()))


@BOXES
def test_the_matrix_is_the_curvature_where_the_model_is_the_image(box):
    values, trials, table, layout, plane, gain = some(box, 4, 4)
    rows = torch.arange(4)
    model, _ = model_and_derivative(trials, rows, table.double(), layout, plane, gain.double())
    exact = torch.view_as_real(model)
    found = normal_equations(exact.float(), trials, table, layout, plane, gain)
    assert float(found.gradient.abs().max()) < 1e-3 * float(found.matrix.abs().max())
    best = found.log_likelihood
    for parameter, size in enumerate((1e-5, 1e-5, 1e-5, 1e-6, 1e-6, 1e-6 / box**2, 1e-4)):
        double = (exact, table.double(), gain.double())
        there = normal_equations_by_parts(
            double[0], moved(trials, parameter, size), double[1], layout, plane, double[2]
        )
        exactly = normal_equations_by_parts(double[0], trials, double[1], layout, plane, double[2]).log_likelihood
        fall = (exactly - there.log_likelihood) / (size**2 / 2)
        torch.testing.assert_close(found.matrix[:, parameter, parameter], fall, rtol=2e-2, atol=0)
    torch.testing.assert_close(best, exact.square().sum((1, 2)) / 2, rtol=1e-4, atol=0)


@pytest.mark.gpu
def test_the_comparison_is_the_same_on_a_gpu():
    values, trials, table, layout, plane, gain = some(24)
    here = normal_equations(values, trials, table, layout, plane, gain)
    away = Trials(**{f.name: getattr(trials, f.name).cuda() for f in dataclasses.fields(trials)})
    place = table_layout(layout.band, layout.padding, "cuda")
    there = normal_equations(values.cuda(), away, table.cuda(), place, half_plane(24, device="cuda"), gain.cuda())
    torch.testing.assert_close(
        here.gradient, there.gradient.cpu(), rtol=1e-3, atol=1e-3 * float(here.gradient.abs().max())
    )
