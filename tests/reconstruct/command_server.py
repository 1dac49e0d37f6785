"""Runs `frazil` commands in forks of a process that has imported everything, so that none waits for imports.

Reads a line of JSON (the arguments) from its input, answers with the process id, and when the command has ended with its
exit code (negative for the signal that killed it).
"""

import json
import os
import sys

import torch

from frazil.cli import main
from frazil.reconstruct import basis_job, consensus, neural

LOADED = (basis_job, consensus, neural)
torch.set_num_threads(1)

for line in sys.stdin:
    process = os.fork()
    if process == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os._exit(main(json.loads(line)))
    print(process, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
