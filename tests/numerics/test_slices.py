"""Slices: the compiled kernels against their torch twins, adjointness, derivatives."""

import pytest
import torch

from frazil.numerics.fourier import half_plane
from frazil.numerics.rotations import random_rotations
from frazil.numerics.slices import (
    extract_slices,
    gather_slices,
    insert_slices,
    padded_spectrum,
    scatter_slices,
    spectrum_shape,
)

BOXES = [16, 17]
COMPLEX = {torch.float32: torch.complex64, torch.float64: torch.complex128}


def _setting(box_size: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    layout = half_plane(box_size)
    rotation = random_rotations(5, generator, dtype)
    spectrum = torch.randn(*spectrum_shape(layout.band, 2), generator=generator, dtype=COMPLEX[dtype])
    values = torch.randn(5, layout.count, generator=generator, dtype=COMPLEX[dtype])
    return layout, rotation, spectrum, values


@pytest.mark.parametrize("box_size", BOXES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_and_torch_slices_agree(box_size: int, dtype: torch.dtype):
    layout, rotation, spectrum, values = _setting(box_size, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    compiled, twin = extract_slices(spectrum, rotation, layout, 2), gather_slices(spectrum, rotation, layout, 2)
    torch.testing.assert_close(compiled, twin, atol=tolerance, rtol=tolerance)
    first, second = torch.zeros_like(spectrum), torch.zeros_like(spectrum)
    insert_slices(values, rotation, layout, 2, first)
    scatter_slices(values, rotation, layout, 2, second)
    torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("box_size", BOXES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_inserting_is_the_adjoint_of_extracting(box_size: int, dtype: torch.dtype, tolerance: float):
    layout, rotation, spectrum, values = _setting(box_size, dtype)
    slices = extract_slices(spectrum, rotation, layout, 2)
    inserted = torch.zeros_like(spectrum)
    insert_slices(values, rotation, layout, 2, inserted)
    left = (slices.conj() * values).real.sum()
    right = (spectrum.conj() * inserted).real.sum()
    assert abs(float(left - right)) <= tolerance * float(slices.norm() * values.norm())


@pytest.mark.parametrize("twin", [extract_slices, gather_slices])
def test_gradients_of_spectrum_and_rotation_equal_finite_differences(twin):
    layout, rotation, spectrum, _ = _setting(8, torch.float64, seed=3)
    spectrum.requires_grad_()
    rotation = rotation[:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s, r: twin(s, r, layout, 2), (spectrum, rotation), fast_mode=True)


@pytest.mark.parametrize("box_size", BOXES)
def test_the_unrotated_slice_is_the_central_plane_of_the_spectrum(box_size: int):
    volume = torch.randn(box_size, box_size, box_size, dtype=torch.float64)
    layout = half_plane(box_size)
    spectrum = padded_spectrum(volume, layout.band, 2)
    slices = extract_slices(spectrum, torch.eye(3, dtype=torch.float64)[None], layout, 2)[0]
    reach = spectrum.shape[2] - 1
    torch.testing.assert_close(slices, spectrum[reach, 2 * layout.y + reach, 2 * layout.x])


def test_points_beyond_the_spectrum_read_zero():
    layout, rotation, spectrum, _ = _setting(16, torch.float64)
    for twin in (extract_slices, gather_slices):
        slices = twin(spectrum, rotation, layout, 4.0)
        assert bool((slices[:, layout.radius > 8.5] == 0).all())
        assert bool((slices[:, layout.radius < 3.5] != 0).all())


@pytest.mark.gpu
def test_slices_on_the_gpu_equal_those_on_the_cpu():
    layout, rotation, spectrum, values = _setting(17, torch.float32)
    there = half_plane(17, device="cuda")
    slices = extract_slices(spectrum.cuda(), rotation.cuda(), there, 2).cpu()
    torch.testing.assert_close(slices, extract_slices(spectrum, rotation, layout, 2), atol=1e-4, rtol=1e-4)
    target = torch.zeros_like(spectrum).cuda()
    insert_slices(values.cuda(), rotation.cuda(), there, 2, target)
    reference = torch.zeros_like(spectrum)
    insert_slices(values, rotation, layout, 2, reference)
    torch.testing.assert_close(target.cpu(), reference, atol=1e-4, rtol=1e-4)
