"""Three processes that meet: each does what the group can do, trains a small task, and writes down what it got.

Called with a folder; process k leaves ``k.json`` there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed import TCPStore
from torch.optim import Optimizer

from frazil.config import JobConfig
from frazil.engine.job import open_job
from frazil.engine.processes import ALONE, PeerLost, Place, Processes, ToldElsewhere, joined
from frazil.engine.train import Task, train

COUNT, POISONED = 16, 11


class Line(Task):
    """One weight, one trainable number per row, noise, and a row that is not a number."""

    def __init__(self) -> None:
        self.values = torch.linspace(-1, 1, COUNT)
        self.values[POISONED] = torch.nan
        self.layer, self.table = nn.Linear(1, 1, bias=False), nn.Embedding(COUNT, 1, sparse=True)
        self.layer.weight.data.fill_(1.0)
        self.table.weight.data.zero_()

    def modules(self) -> dict[str, nn.Module]:
        return {"layer": self.layer, "table": self.table}

    def optimizers(self) -> dict[str, Optimizer]:
        dense = torch.optim.Adam(self.layer.parameters(), lr=0.05)
        return {"dense": dense, "sparse": torch.optim.SparseAdam(self.table.parameters(), lr=0.05)}

    def prepare(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return 0.1 * torch.randn(len(rows), 1, generator=generator)

    def step(self, rows: Tensor, epoch: float, prepared: Tensor) -> dict[str, Tensor]:
        x = self.values[rows][:, None]
        return {"loss": (self.layer(x) + self.table(rows) + prepared - 2 * x).pow(2).mean()}


def trained(folder: Path, processes: Processes) -> dict[str, object]:
    """Final numbers of a training in batches of 5: the last one of an epoch has a single row."""
    task = Line()
    with open_job("simulate", JobConfig(out=folder, device="cpu"), [], processes=processes) as job:
        train(task, count=COUNT, batch_size=5, epochs=4, accumulate=2, job=job, metric_every=1)
        return {
            "weight": task.layer.weight.item(),
            "table": task.table.weight.flatten().tolist(),
            "folder": str(job.folder),
        }


def work(rank: int, folder: Path) -> dict[str, object]:
    """What process ``rank`` gets from each meeting, and how it ends when process 2 leaves without a word."""
    got: dict[str, object] = {}
    try:
        with joined(Place(rank, 3, rank, 3), "cpu") as processes:
            total = [torch.full((2,), 10.0**rank), torch.tensor(float(rank))]
            processes.sum(total)
            rows = torch.arange(rank)[:, None] + torch.tensor([10 * rank, 100])  # 0, 1 and 2 rows
            got |= {
                "sum": [tensor.tolist() for tensor in total],
                "rows": processes.gather(rows).tolist(),
                "first": processes.from_first(lambda: (rank, torch.ones(2)))[1].tolist(),
                "same": processes.same(rank),
                "any": [processes.any(rank == 2), processes.any(False)],
                "least": processes.least(5.0 - rank),
                "trained": trained(folder / "three", processes),
            }
            if rank == 2:
                (folder / "2.json").write_text(json.dumps(got))
                os._exit(0)
    except (PeerLost, ToldElsewhere) as error:
        got |= {"ended": type(error).__name__, "code": error.exit_code}
    return got


def main(folder: Path) -> None:
    """Forks the three and waits for them."""
    torch.set_num_threads(1)
    alone = trained(folder / "one", ALONE)
    (folder / "alone.json").write_text(json.dumps(alone))
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    processes = []
    for rank in range(3):
        process = os.fork()
        if process == 0:
            try:
                (folder / f"{rank}.json").write_text(json.dumps(work(rank, folder)))
            finally:
                os._exit(1)
        processes.append(process)
    for process in processes:
        os.waitpid(process, 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
