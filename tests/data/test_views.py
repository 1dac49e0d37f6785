"""What is summed over the views of a particle, and what is left alone where there are none."""

import torch

from frazil.data.views import ParticleViews

# particles 7, 2 and 5 in that order; 2 is seen three times
MIXED = ParticleViews(torch.tensor([7, 2, 2, 5, 7, 2]))


def test_each_image_gets_the_sum_over_its_particle():
    values = torch.tensor([[1.0, 2], [10, 20], [100, 200], [1000, 2000], [3, 4], [5, 6]])
    by_hand = torch.tensor([[4.0, 6], [115, 226], [115, 226], [1000, 2000], [4, 6], [115, 226]])
    assert torch.equal(MIXED.summed(values), by_hand)
    assert torch.equal(MIXED.summed(values[:, 0]), by_hand[:, 0])


def test_images_of_different_particles_keep_what_they_have():
    values = torch.randn(4, 3)
    assert ParticleViews(torch.tensor([3, 1, 2, 0])).summed(values) is values
    none = torch.zeros(0, 3)
    assert ParticleViews(torch.zeros(0, dtype=torch.int64)).summed(none) is none


def test_particles_are_numbered_as_they_come():
    assert MIXED.ordinal.tolist() == [0, 1, 1, 2, 0, 1]
    assert MIXED.count.tolist() == [2, 3, 3, 1, 2, 3]
    assert MIXED.first.tolist() == [True, True, False, True, False, False]
    assert (MIXED.particles, MIXED.shared) == (3, True)
    assert MIXED[torch.tensor([5, 3, 0])].ordinal.tolist() == [0, 1, 2]
    assert not MIXED[:2].shared
