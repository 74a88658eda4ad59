# Everything here works from a fresh clone: each target first makes .venv and installs what it needs.
VENV := .venv
PYTHON := $(VENV)/bin/python
DATA_DIR := $(if $(wildcard ../shared/data/MNIST),--data_dir ../shared/data)

.PHONY: run test lint bench bounds pages faults fields notebook precision report readme experiment_1 experiment_2 experiment_3 experiment_4 choices choices_page functions functions_page

# The main job on the embedded digits: three to five minutes on two cores.
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

# Where the time goes, and other ways to compute the same, as ratios to ours: two minutes.
bounds: $(VENV)/bench
	$(PYTHON) -m benchmarks.bounds $(DATA_DIR)

# Seconds that the page of 30 runs of 100 rounds takes, and its size; fails above 20 seconds of processor time.
pages: $(VENV)/dev
	$(PYTHON) -m benchmarks.pages

# Kills, interrupts, corruptions and full disks, each many times.
faults: $(VENV)/dev
	$(PYTHON) -m benchmarks.faults

# The paper's experiments on MNIST: hours, and the same command goes on where it was stopped. The committed runs are
# finished, so these want a folder to be run anew: make experiment_1 RESULT_DIR=result_npy/again_1
experiment_1 experiment_2 experiment_3 experiment_4: $(VENV)/run
	$(PYTHON) main.py --config active_learning/presets/$@.yaml $(DATA_DIR) $(if $(RESULT_DIR),--result_dir $(RESULT_DIR))

# What each choice of the training is worth: hours, and the same command goes on where it was stopped.
choices: $(VENV)/run
	$(PYTHON) -m benchmarks.choices --run true $(DATA_DIR)

# The page of these runs, docs/choices.md, with its figure.
choices_page: $(VENV)/run
	$(PYTHON) -m benchmarks.choices

# All acquisition functions on other data sets: hours, and the same command goes on where it was stopped.
functions: $(VENV)/run
	$(PYTHON) -m benchmarks.functions --run true $(DATA_DIR)

# The page of these runs, docs/functions.md, with its figure.
functions_page: $(VENV)/run
	$(PYTHON) -m benchmarks.functions

# What the notebook of experiment 3 says of graphs, batches and seconds.
fields: $(VENV)/run
	$(PYTHON) -m benchmarks.fields $(DATA_DIR)

notebook: $(VENV)/dev
	$(VENV)/bin/jupyter execute --inplace comparison_to_MBR.ipynb

# The same runs trained in each precision. Those that the benchmarks and a test compare are committed, in
# result_npy/precision, and of an earlier training.
precision: $(VENV)/run
	for precision in bfloat16 float32; do \
		$(PYTHON) main.py --dataset mnist_5k --acq_func var_ratios --rounds 30 --weight_decay 3.5 --experiments 20 \
			--precision $$precision --result_dir result_npy/precision_again/$$precision || exit; \
	done

# A page of any result folder: make report DIR=result_npy/experiment_3
DIR := result_npy/experiment_1
report: $(VENV)/run
	$(PYTHON) -m active_learning.report $(DIR) $(DATA_DIR)

# The reports and the README's results, of the experiments whose runs are committed.
readme: $(VENV)/run
	$(PYTHON) -m active_learning.report $(DATA_DIR) --readme README.md

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
