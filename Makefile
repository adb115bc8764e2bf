# make run: install and run the main job on the embedded digits task.   make test: install the test extra and run the tests.
# make bench: time this project against its peers; ARGS="digits_mlp --out reports/benchmarks" picks cases and a folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Most of what is installed is never imported: compiling all of it takes about two minutes. What is imported is compiled
# then, and kept: without that, every process would compile torch anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
MAKEFLAGS += --no-print-directory
export NO_MKDOCS_2_WARNING := 1

# make test: three at a time, on two cores too: many tests wait for servers and for processes of their own.
# make numeric: the numeric tests on torch's plain and AVX2 kernels; make test runs them on this processor's own, which are
# left out here. What holds on one processor alone is not well posed. What is marked plain stays out: no kernel of torch
# reaches it.
# make check: style, types, the layers of the house (no module imports from above, no circles) and its figures.
# make docs: the documentation as a site in build/site; strict, so that a broken link is an error. A part of make check.
# make soak: the tests that take minutes: many drivers, many kills.
.PHONY: run test fast numeric soak bench check types style docs format clean
NUMERIC := $(addprefix tests/,$(addsuffix .py,baselines/test_contract baselines/test_linear baselines/test_univariate inference/test_coverage \
	dynamics/test_curvature studies/test_early_learning baselines/test_identities inference/test_interval \
	dynamics/test_tangent_kernel analysis/test_measure metrics/test_scores metrics/test_defects \
	metrics/test_masks baselines/test_objectives analysis/test_best_beta models/test_pair baselines/test_temperature \
	analysis/test_beta_rate_plane dynamics/test_stationary evaluation/test_censored))
OWN_KERNELS := env -u ATEN_CPU_CAPABILITY $(BIN)/python -c "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"

run: $(VENV)/.run
	$(BIN)/python -m calib_bench run $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(ARGS)

fast: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow and not soak" $(ARGS)

numeric: numeric-default numeric-avx2

numeric-%: $(VENV)/.test
	@if [ "$$($(OWN_KERNELS))" = $* ]; then echo "numeric-$*: this processor's own kernels, on which make test runs"; else \
	ATEN_CPU_CAPABILITY=$* $(BIN)/python -m pytest -m "not soak and not plain" $(NUMERIC) $(ARGS); fi

soak: $(VENV)/.test
	$(BIN)/python -m pytest -m soak $(ARGS)

bench: $(VENV)/.test
	$(BIN)/python -m tests.benchmarks $(ARGS)

check: types style

types: $(VENV)/.dev
	$(BIN)/mypy

style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tests/house_figures.py
	$(BIN)/python -m mkdocs build --strict

docs: $(VENV)/.dev
	$(BIN)/python -m mkdocs build --strict

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing calib_bench into $(VENV): a few minutes the first time"
	$(PIP) -e .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing calib_bench[test] into $(VENV): a few minutes the first time"
	$(PIP) -e ".[test]"
	@touch $@ $(VENV)/.run

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing calib_bench[dev,docs] into $(VENV): a few minutes the first time"
	$(PIP) -e ".[dev,docs]"
	@touch $@ $(VENV)/.test $(VENV)/.run
