# Everything here works from a fresh clone: each target first makes .venv and installs what it needs.
VENV := .venv
PYTHON := $(VENV)/bin/python
DATA_DIR := $(if $(wildcard ../shared/data/MNIST),--data_dir ../shared/data)

.PHONY: run test lint bench faults experiment_1 precision readme

# The main job on the embedded digits: about three minutes on two cores.
run: $(VENV)/run
	$(PYTHON) main.py --dataset mnist_5k --rounds 12 --experiments 1 --result_dir result_npy/quick_start
	@echo "The full job (original MNIST, 100 rounds, 3 repetitions; hours): $(PYTHON) main.py"

test: $(VENV)/dev
	$(PYTHON) -m pytest

lint: $(VENV)/dev
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

# Speed and memory as ratios within one run: about ten minutes, with nothing else running.
bench: $(VENV)/bench
	$(PYTHON) -m benchmarks.speed $(DATA_DIR)

# Kills, interrupts, corruptions and full disks, each many times.
faults: $(VENV)/dev
	$(PYTHON) -m benchmarks.faults

experiment_1: $(VENV)/run
	$(PYTHON) main.py $(DATA_DIR) --experiments 1 --result_dir result_npy/experiment_1

# The same runs trained in each precision, which the benchmarks and a test compare.
precision: $(VENV)/run
	for precision in bfloat16 float32; do \
		$(PYTHON) main.py --dataset mnist_5k --acq_func var_ratios --rounds 30 --weight_decay 3.5 \
			--precision $$precision --result_dir result_npy/precision/$$precision || exit; \
	done

# The README's table and figure, from the committed results.
readme: $(VENV)/run
	$(PYTHON) -m active_learning.report $(sort $(wildcard result_npy/experiment_*)) $(DATA_DIR) --readme README.md

$(VENV)/run: requirements.txt
	python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/dev: requirements-dev.txt $(VENV)/run
	$(PYTHON) -m pip install --quiet -r requirements-dev.txt
	touch $@

$(VENV)/bench: benchmarks/requirements.txt $(VENV)/dev
	$(PYTHON) -m pip install --quiet -r benchmarks/requirements.txt
	touch $@
