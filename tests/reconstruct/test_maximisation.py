"""The step of the volumes solves the equations it says it solves."""

import torch

from frazil.numerics.spectrum_table import table_layout
from frazil.reconstruct.maximisation import half_correlations, newton_step, pooled_correlations


def test_the_newton_step_solves_the_system_of_every_voxel():
    layout, volumes = table_layout(5), 3
    generator = torch.Generator().manual_seed(1)
    slope, table = torch.randn(2, layout.count, 2, volumes, generator=generator)
    root = torch.randn(volumes, volumes, generator=generator)
    second = root @ root.T + torch.eye(volumes)
    covered = 10 * torch.rand(layout.count, generator=generator)
    prior = 0.5 + torch.rand(int(layout.nearest_shell.max()) + 1, volumes, generator=generator)
    here = prior[layout.nearest_shell].double()
    matrix = covered[:, None, None] * second.double() + torch.diag_embed(here)
    wanted = torch.linalg.solve(matrix[:, None], (slope - here[:, None] * table)[..., None])[..., 0]
    newton_step(slope, table, layout, second, covered, prior)
    torch.testing.assert_close(slope, wanted.float(), atol=1e-5, rtol=1e-4)


def test_a_direction_that_agrees_lends_its_correlation_to_one_that_does_not():
    layout = table_layout(8)
    a, b = torch.randn(2, layout.count, 2, 3, generator=torch.Generator().manual_seed(2))
    b[..., 2] = a[..., 2]
    alone, pooled = half_correlations(a, b, layout)[2:], pooled_correlations(a, b, layout)[2:]
    torch.testing.assert_close(alone[:, 2], torch.ones(len(alone)))
    torch.testing.assert_close(pooled[:, 0], alone[:, 0])
    # of two directions of equal power one agrees: together 1/2
    torch.testing.assert_close(pooled[:, 2], torch.full((len(pooled),), 0.75), atol=0.1, rtol=0)
    torch.testing.assert_close(pooled[:, 1], torch.full((len(pooled),), 0.25), atol=0.1, rtol=0)
