"""States that differ from their nearest neighbour only where both half-sets say so.

What all states together differ by lies in many places, and the noise of a small state in all of them. But a state and the one
nearest to it mostly differ in one place: a subunit has come, a domain has turned. The states are joined to a tree by what
is least between them, and along each branch the difference of two maps is kept only where it is told (`region_of_change`).
In sixteen states of an assembly, branches are so confined to a third of a percent of the box, and the noise with them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from frazil.reconstruct.region import region_of_change
from frazil.reconstruct.states import States


def between_nearest(states: States) -> States:
    """The same states, each as it differs from its nearest where both halves say so; their mean is as it was."""
    if states.count == 1:
        return states
    a, b = states.a.clone(), states.b.clone()
    for state, nearest in branches(states):
        apart = states.a[state] - states.a[nearest], states.b[state] - states.b[nearest]
        region = region_of_change(apart[0][None], apart[1][None])
        a[state] = a[nearest] + apart[0] * region
        b[state] = b[nearest] + apart[1] * region
    # away from all branches every state is the most populated one, whose map is noisier than the mean
    for now, before in ((a, states.a), (b, states.b)):
        now += torch.tensordot(states.share, before - now, 1)
    return replace(states, a=a, b=b)


def branches(states: States) -> list[tuple[int, int]]:
    """Each state but the most populated with the neighbour that it hangs from, which stands before it in this order."""
    from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

    # no edge may weigh nothing: that is how a sparse graph says that there is none
    apart = squared_distances(states)
    apart = (apart / apart.max().clamp(min=torch.finfo(apart.dtype).tiny)).clamp(min=1e-12).fill_diagonal_(0)
    tree = minimum_spanning_tree(apart.numpy())
    order, before = breadth_first_order(tree, int(states.share.argmax()), directed=False)
    return [(int(state), int(before[state])) for state in order[1:]]


def squared_distances(states: States) -> Float[Tensor, "states states"]:
    """Between the maps: the product of what each half-set says of their difference, which noise has no part in."""
    a, b = (maps.flatten(1).to(torch.float64) for maps in (states.a, states.b))
    product = a @ b.T
    product = (product + product.T) / 2
    own = product.diagonal()
    return own[:, None] + own - 2 * product
