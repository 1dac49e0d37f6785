"""Paths through a latent cloud."""

from __future__ import annotations

import heapq

import numpy as np
import pytest

from frazil.analyze.trajectories import direct_path, graph_path, neighbours
from frazil.errors import InputError


def test_a_direct_path_has_equal_steps_and_every_anchor_once() -> None:
    anchors = np.array([[0.0, 0], [5, 0], [5, 10]])
    path = direct_path(anchors, 6)
    assert len(path) == 11
    np.testing.assert_allclose(path[:6], np.stack([np.arange(6.0), np.zeros(6)], axis=1))
    np.testing.assert_allclose(path[5:], np.stack([np.full(6, 5.0), 2 * np.arange(6.0)], axis=1))


def by_definition(latent: np.ndarray, first: int, last: int, most: int, average: float) -> list[int]:
    """The shortest path written out: all distances, the edges that stay, and Dijkstra's algorithm with a heap."""
    far = np.linalg.norm(latent[:, None] - latent[None], axis=-1)
    near = np.argsort(far, axis=1)[:, :most]
    kept = np.sort(np.take_along_axis(far, near, axis=1).ravel())[int(len(latent) * average) - 1]
    edges = {i: [(j, far[i, j]) for j in near[i] if far[i, j] < kept] for i in range(len(latent))}
    heap, done = [(0.0, first, [first])], set()
    while heap:
        length, here, path = heapq.heappop(heap)
        if here == last:
            return path
        if here not in done:
            done.add(here)
            for there, step in edges[here]:
                heapq.heappush(heap, (length + step, there, [*path, there]))
    raise AssertionError("no path")


def test_a_graph_path_is_the_shortest_by_its_definition() -> None:
    turn = np.random.default_rng(0).permutation(np.linspace(0, 1.5 * np.pi, 400))
    noise = np.random.default_rng(1).normal(size=(400, 2)) * 0.003
    arc = np.stack([np.cos(turn), np.sin(turn)], axis=1) + noise
    first, middle, last = (int(np.abs(turn - t).argmin()) for t in (0.1, 2.2, 4.6))
    path = graph_path(arc, [first, middle, last])
    expected = by_definition(arc, first, middle, 10, 5) + by_definition(arc, middle, last, 10, 5)[1:]
    assert path.tolist() == expected
    radius = np.linalg.norm(arc[path], axis=1)
    assert radius.min() > 0.8, "the path stays on the arc and does not cross the empty middle"


def test_rows_that_are_not_finite_are_not_on_the_path() -> None:
    line = np.linspace(0, 1, 50)[:, None]
    broken = np.insert(line, 20, np.nan, axis=0)
    path = graph_path(broken, [0, 50])
    assert 20 not in path and path[0] == 0 and path[-1] == 50
    with pytest.raises(InputError, match="--graph: the latent of anchor 20 is not finite"):
        graph_path(broken, [0, 20])


def test_two_particles_at_one_place_are_connected() -> None:
    line = np.repeat(np.arange(30.0), 2)[:, None] * 0.1
    assert graph_path(line, [0, 59], most=6, average=5.9)[-1] == 59


def test_a_cloud_in_pieces_is_told() -> None:
    cloud = np.concatenate([np.linspace(0, 1, 40), np.linspace(100, 101, 40)])[:, None]
    with pytest.raises(InputError, match="--graph: no path leads from particle 3 to 60: the cloud is in pieces"):
        graph_path(cloud, [3, 60])


def test_neighbours_come_nearest_first_with_the_particle_itself_in_front() -> None:
    distance, rows = neighbours(np.array([[0.0], [1.0], [3.0]]), 2)
    assert rows.tolist() == [[0, 1], [1, 0], [2, 1]] and distance[:, 1].tolist() == [1, 1, 2]
