# Every target sets up what it needs on a fresh machine: Python 3.11+ with venv is all that must be there.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# Tests of real data skip where the folder is absent.
export FRAZIL_DATA := $(abspath $(or $(DATA),../shared/data))

.PHONY: demo test check format bench bench-ensembles bench-search peers docs clean

# The generated molecule, or with DATA=folder the real particles in it.
demo: $(INSTALLED)
	$(BIN)/frazil demo $(if $(DATA),--data "$(DATA)" --out demo/real,--out demo/generated)

# One thread per worker: the tensors are small, and workers that share cores only slow each other down.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 $(TESTS)

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(INSTALLED)
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

peers:
	benchmarks/peers.sh

# About an hour on two quiet cores. One after the other: they measure time.
bench: $(INSTALLED) peers
	$(BIN)/python benchmarks/backprojection.py
	$(BIN)/python benchmarks/cryodrgn_parity.py
	$(BIN)/python benchmarks/interoperability.py
	$(BIN)/python benchmarks/apoferritin.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/refinement.py
	$(BIN)/python benchmarks/classification.py

# Some hours on two quiet cores: ten searches of each set; parts of it with SEARCHES="--sets rigid --seeds 2".
bench-search: $(INSTALLED) peers
	$(BIN)/python benchmarks/pose_search.py
	$(BIN)/python benchmarks/cryodrgn_search.py
	$(BIN)/python benchmarks/unknown_poses.py $(SEARCHES)
	$(BIN)/python benchmarks/amortised.py

# Some hours on two quiet cores, nearly all of them cryodrgn's; parts of it with ENSEMBLES="--sets igg1d --only frazil oracle".
bench-ensembles: $(INSTALLED) peers
	$(BIN)/python benchmarks/ensembles.py $(ENSEMBLES)

clean:
	rm -rf .venv .stamps demo docs/_build docs/verbs .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
