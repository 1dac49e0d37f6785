"""A server of small training runs, each a process of its own that can be killed.

Reads lines `FOLDER PAUSE`; for each it forks a process that trains there, prints its process id, and then how it ended. So
torch is loaded once for many runs.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from frazil.config import JobConfig
from frazil.engine.job import open_job
from frazil.engine.train import Task, train

COUNT, EPOCHS = 60, 6


class Regression(Task):
    """A network with dropout and a table of one trainable number per row: every kind of state there is."""

    def __init__(self, pause: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(7)
        self.inputs = torch.randn(COUNT, 5, generator=generator)
        self.targets = self.inputs.pow(2).sum(1, keepdim=True)
        self.pause = pause
        torch.manual_seed(11)
        self.network = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))
        self.table = nn.Embedding(COUNT, 1, sparse=True)
        self._adam = torch.optim.AdamW(self.network.parameters(), lr=0.01)
        self._sparse = torch.optim.SparseAdam(self.table.parameters(), lr=0.01)

    def modules(self) -> dict[str, nn.Module]:
        return {"network": self.network, "table": self.table}

    def optimizers(self) -> dict[str, Optimizer]:
        return {"adam": self._adam, "sparse": self._sparse}

    def prepare(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(len(rows), 1, generator=generator)

    def step(self, rows: Tensor, epoch: float, prepared: Tensor) -> dict[str, Tensor]:
        time.sleep(self.pause)
        noise = 0.1 * prepared
        error = self.network(self.inputs[rows]) + self.table(rows) + noise - self.targets[rows]
        loss = error.pow(2).mean() * (1 + 0.1 * epoch)
        return {"loss": loss, "error": error.abs().mean()}

    def end_epoch(self, epoch: int) -> dict[str, float]:
        self.network.eval()
        with torch.no_grad():
            return {"weight": float(self.network[0].weight.norm())}


def main(folder: Path, pause: float) -> None:
    """Runs or resumes the training; leaves final weights as a file."""
    torch.set_num_threads(1)
    task = Regression(pause)
    with open_job("simulate", JobConfig(out=folder, device="cpu"), []) as job:
        job.metric(before_training=1)
        train(
            task,
            count=COUNT,
            batch_size=4,
            epochs=EPOCHS,
            accumulate=2,
            seed=3,
            job=job,
            checkpoint_every=2,
            metric_every=3,
        )
        weights = {f"{n}.{k}": v.clone() for n, m in task.modules().items() for k, v in m.state_dict().items()}
        torch.save(weights, job.outputs / "weights.pt")


def serve() -> None:
    """Forks a training run for every line of standard input."""
    Regression()  # loads what optimizers need before the first fork
    for line in sys.stdin:
        folder, pause = line.split()
        process = os.fork()
        if process == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                main(Path(folder), float(pause))
            except BaseException:
                os._exit(1)
            os._exit(0)
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
