"""A number that is not finite names its particle and stops nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from frazil.config import JobConfig
from frazil.engine.job import Job, open_job
from frazil.engine.metrics import read_metrics
from frazil.engine.train import Task, train
from frazil.errors import FrazilError


class Line(Task):
    """Fits y = 2 x with one weight."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.layer = nn.Linear(1, 1, bias=False)
        self.layer.weight.data.fill_(1.0)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=0.05)
        self.rows: list[list[int]] = []
        self.epochs: list[float] = []

    def modules(self) -> dict[str, nn.Module]:
        return {"layer": self.layer}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"sgd": self.optimizer}

    def step(self, rows: Tensor, epoch: float, prepared: Tensor) -> dict[str, Tensor]:
        if torch.is_grad_enabled():
            self.rows.append(rows.tolist())
            self.epochs.append(epoch)
        x = self.values[rows][:, None]
        return {"loss": (self.layer(x) - 2 * x).pow(2).mean()}

    def name_of(self, row: int) -> str:
        return f"particles.mrcs:{row + 1}"


class FlatAtZero(Line):
    """A finite loss whose gradient is not: the square root has none at zero."""

    def step(self, rows: Tensor, epoch: float, prepared: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.layer.weight * 0).abs().sqrt().sum() + 1}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return open_job("simulate", JobConfig(out=tmp_path / "job", device="cpu"), [])


def said(job: Job) -> str:
    return (job.folder / "log.txt").read_text()


def test_a_particle_that_is_not_finite_is_named_and_left_out(job: Job) -> None:
    values = torch.ones(20)
    values[7] = float("nan")
    task = Line(values)
    means = train(task, count=20, batch_size=5, epochs=3, job=job)
    assert (
        said(job).count("warning: particles.mrcs:8 gives a loss that is not finite; it is left out from here on") == 1
    )
    assert torch.isfinite(task.layer.weight).all() and abs(task.layer.weight.item() - 2) < 0.5
    assert means["loss"] < 0.3
    assert sum(7 in rows for rows in task.rows) == 1
    seen = [row for rows in task.rows for row in rows]
    assert all(seen.count(row) >= 3 for row in range(20) if row != 7)


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(job: Job) -> None:
    task = FlatAtZero(torch.ones(4))
    train(task, count=4, batch_size=4, epochs=1, job=job)
    assert task.layer.weight.item() == 1.0
    assert "warning: the gradient of step 1 is not finite; the step is skipped" in said(job)


def test_a_training_that_fell_apart_ends_with_advice(job: Job) -> None:
    class Broken(Line):
        def step(self, rows: Tensor, epoch: float, prepared: Tensor) -> dict[str, Tensor]:
            loss = (self.layer.weight * (float("nan") if len(rows) > 1 else 1.0)).sum()  # no particle is to blame
            return {"loss": loss}

    with pytest.raises(FrazilError, match="50 batches in a row had no finite loss. Use a lower learning rate"):
        train(Broken(torch.ones(200)), count=200, batch_size=2, epochs=2, job=job)
    assert "the loss of a batch of 2 (first: particles.mrcs:" in said(job)


def test_accumulated_batches_make_the_step_of_one_large_batch(job: Job, tmp_path: Path) -> None:
    values = torch.randn(12, generator=torch.Generator().manual_seed(0))
    parts, whole = Line(values), Line(values)
    train(parts, count=12, batch_size=3, accumulate=4, epochs=2, job=job)
    other = open_job("simulate", JobConfig(out=tmp_path / "other", device="cpu"), [])
    train(whole, count=12, batch_size=12, epochs=2, job=other)
    assert torch.allclose(parts.layer.weight, whole.layer.weight, rtol=1e-6)


class Greedy(Line):
    """Runs out of memory with more than three rows at once."""

    def __init__(self, values: Tensor, error: Exception | None, most: int = 3) -> None:
        super().__init__(values)
        self.error, self.most = error, most

    def step(self, rows: Tensor, epoch: float, prepared: Tensor) -> dict[str, Tensor]:
        values = super().step(rows, epoch, prepared)
        if self.error is not None and len(rows) > self.most:
            raise self.error
        return values


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["gpu", "python", "cpu"])
def test_out_of_memory_halves_what_goes_through_at_once_and_keeps_the_batch(
    job: Job, tmp_path: Path, error: Exception
) -> None:
    values = torch.randn(20, generator=torch.Generator().manual_seed(0))
    roomy, greedy = Line(values), Greedy(values, error)
    train(roomy, count=20, batch_size=10, accumulate=2, epochs=3, job=job)
    other = open_job("simulate", JobConfig(out=tmp_path / "other", device="cpu"), [])
    train(greedy, count=20, batch_size=10, accumulate=2, epochs=3, job=other)
    assert [len(rows) for rows in greedy.rows[:2]] == [10, 5]
    assert all(len(rows) == 3 or len(rows) == 1 for rows in greedy.rows[2:])
    assert said(other).count("out of memory") == 1
    assert "out of memory: from here on 3 at once, in 4 parts of a batch" in said(other)
    assert torch.allclose(greedy.layer.weight, roomy.layer.weight, rtol=1e-5)
    assert [line["loss"] for line in read_metrics(other.folder)] == pytest.approx(
        [line["loss"] for line in read_metrics(job.folder)], rel=1e-5
    )


def test_what_fits_into_memory_is_remembered_by_a_job_that_goes_on(job: Job, tmp_path: Path) -> None:
    train(Greedy(torch.ones(8), MemoryError()), count=8, batch_size=8, epochs=1, job=job)
    job.finish("interrupted")
    again = open_job("simulate", JobConfig(out=tmp_path / "job", device="cpu"), [])
    fresh = Greedy(torch.ones(8), MemoryError())
    train(fresh, count=8, batch_size=8, epochs=2, job=again)
    assert [len(rows) for rows in fresh.rows] == [2, 2, 2, 2]


def test_when_one_row_does_not_fit_into_memory_training_ends_with_advice(job: Job) -> None:
    with pytest.raises(FrazilError, match="Not even one row at a time fits into memory. Use a smaller network"):
        train(Greedy(torch.ones(8), MemoryError(), most=0), count=8, batch_size=8, epochs=1, job=job)


def test_another_error_of_a_step_is_not_taken_for_one_of_memory(job: Job) -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        train(Greedy(torch.ones(8), RuntimeError("shapes")), count=8, batch_size=8, epochs=1, job=job)


def test_metrics_are_means_over_rows_and_epochs_are_counted(job: Job) -> None:
    task = Line(torch.arange(10.0) / 10)
    train(task, count=10, batch_size=4, epochs=2, job=job, metric_every=2)
    lines = read_metrics(job.folder)
    assert [(line["epoch"], line["step"]) for line in lines] == [(0.8, 2), (1, 3), (1.4, 4), (2, 6)]
    assert task.epochs[:4] == pytest.approx([0.4, 0.8, 1.0, 1.4])
    assert lines[-1]["loss"] < lines[1]["loss"]


def test_a_finished_training_is_not_done_again(job: Job, tmp_path: Path) -> None:
    task = Line(torch.ones(8))
    train(task, count=8, batch_size=4, epochs=2, job=job)
    job.finish("interrupted")
    again = open_job("simulate", JobConfig(out=tmp_path / "job", device="cpu"), [])
    assert again.resumed
    fresh = Line(torch.ones(8))
    train(fresh, count=8, batch_size=4, epochs=2, job=again)
    assert fresh.rows == [] and torch.equal(fresh.layer.weight, task.layer.weight)


@pytest.mark.gpu
def test_training_on_a_gpu_resumes_bitwise(tmp_path: Path) -> None:
    class OnDevice(Line):
        def __init__(self) -> None:
            super().__init__(torch.linspace(-1, 1, 64, device="cuda"))
            self.layer = self.layer.cuda()
            self.optimizer = torch.optim.AdamW(self.layer.parameters(), lr=0.01)
            self.stop_after = 10**9

        def prepare(self, rows: Tensor, generator: torch.Generator) -> Tensor:
            return torch.randn(len(rows), 1, generator=generator)

        def step(self, rows: Tensor, epoch: float, prepared: Tensor) -> dict[str, Tensor]:
            if len(self.rows) == self.stop_after:
                raise KeyboardInterrupt
            values = super().step(rows.to("cuda"), epoch, prepared)
            noise = prepared.to("cuda")
            return {"loss": values["loss"] + (self.layer(noise) - noise).pow(2).mean()}

    weights = {}
    for name, stops in (("whole", [10**9]), ("broken", [13, 20, 10**9])):
        for stop in stops:
            task = OnDevice()
            task.stop_after = stop
            job = open_job("simulate", JobConfig(out=tmp_path / name, device="cuda"), [])
            try:
                train(task, count=64, batch_size=8, epochs=5, job=job, checkpoint_every=3)
            except KeyboardInterrupt:
                job.finish("interrupted")
        weights[name] = task.layer.weight.detach().cpu()
    assert torch.equal(weights["whole"], weights["broken"])
    assert (tmp_path / "whole/metrics.jsonl").read_bytes() == (tmp_path / "broken/metrics.jsonl").read_bytes()


def test_a_task_is_told_of_every_stretch_of_rows_before_it_is_trained_on_them(job: Job) -> None:
    class Told(Line):
        """Writes down what it is told, and how many batches it has seen by then."""

        told: list[tuple[list[int], float, int]]

        def before(self, rows: Tensor, epoch: float) -> None:
            self.told.append((rows.tolist(), epoch, len(self.rows)))

    task = Told(torch.ones(14))
    task.told = []
    train(task, count=14, batch_size=2, epochs=2, stretch=6, job=job)
    assert [(len(rows), batches) for rows, _, batches in task.told] == [
        (6, 0),
        (6, 3),
        (2, 6),
        (6, 7),
        (6, 10),
        (2, 13),
    ]
    assert [epoch for _, epoch, _ in task.told] == pytest.approx([0, 6 / 14, 12 / 14, 1, 1 + 6 / 14, 1 + 12 / 14])
    assert sum((rows for rows, _, _ in task.told), []) == sum(task.rows, [])
