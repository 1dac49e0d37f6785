"""Runs `frazil` commands in forks of a process that has imported everything, so that none waits for imports.

Reads a line of JSON (how many processes are to work together, the arguments, and a folder for what they say to standard
error or null), answers with their process ids, and when all have ended with their exit codes (negative for the signal
that killed one).
"""

import json
import os
import sys
from pathlib import Path

os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # as the command line does, and read when torch is loaded

import torch
from torch.distributed import TCPStore

from frazil.cli import main
from frazil.reconstruct import basis_job, consensus, neural, refine

LOADED = (basis_job, consensus, neural, refine)
torch.set_num_threads(1)


def place(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun, which keeps the store, writes into the environment of a process."""
    numbers = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    told = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    return {name: str(number) for name, number in numbers.items()} | told


def start(count: int, arguments: list[str], said: str | None, port: int) -> list[int]:
    """Forks the processes of one command."""
    processes = []
    for rank in range(count):
        process = os.fork()
        if process == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if said is not None:
                os.dup2(os.open(Path(said) / f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
            os.environ |= place(rank, count, port)
            os._exit(main(arguments))
        processes.append(process)
    return processes


for line in sys.stdin:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = start(*json.loads(line), store.port)
    print(json.dumps(started), flush=True)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in started]), flush=True)
