# make demo: the whole journey on simulated data · make test: everything · make docs
# make test-one NB=24b: one chapter · make sync: modules from notebooks · make lab
# make soak: ten minutes of load with swaps and a killed worker (SOAK=60: one minute)
PYTHON ?= python3
VENV ?= .venv
DATA ?= simulated
SOAK ?= 600
OUT ?= _demo
BIN := $(VENV)/bin
# development needs all that is installed there; the demo does with less, in half the time
ENV := $(VENV)/.installed
DEMO_ENV := $(VENV)/.installed-for-runs
# pip itself comes first: what Python brings along takes longer to resolve
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# one thread a process: the notebooks run side by side, and the same sums come out on every machine
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# what is installed is compiled when it is first imported, and not again by every process
unexport PYTHONDONTWRITEBYTECODE

.PHONY: env engines demo test types check lint packages compiled test-one docs readme bench soak lab sync run-notebooks clean
env: $(ENV)
$(ENV): EXTRA = dev
$(DEMO_ENV): EXTRA = all
$(ENV) $(DEMO_ENV): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; assert sys.version_info >= (3, 10), sys.version' || \
	  { echo "recsys_nb needs Python 3.10 or newer with venv; name it with: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade pip
	$(INSTALL) -e '.[$(EXTRA)]'
	touch $@

# PostgreSQL and PySpark for the tests, which skip what is missing: what cannot be installed is named, and no error
engines: $(ENV)
	@VENV=$(VENV) .ci/engines

demo: $(if $(wildcard $(ENV)),$(ENV),$(DEMO_ENV))
	$(BIN)/recsys-nb run --data $(DATA) --out $(OUT)

test: $(ENV)
	@$(MAKE) --no-print-directory --jobs 2 types lint check packages compiled
	$(ONE_THREAD) MPLBACKEND=agg $(BIN)/nbdev_test --n_workers 2 --timing
	$(ONE_THREAD) MPLBACKEND=agg $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

lint: $(ENV)
	.ci/lint

packages: $(ENV)
	$(BIN)/python -m pip check

# what the tests import, compiled by one process, before two of them want it at once
compiled: $(ENV)
	$(BIN)/python -c 'import recsys_nb.pipeline, recsys_nb.serving.server, torch._dynamo'

types: $(ENV)
	$(BIN)/python .ci/type_errors.py

check: $(ENV)
	$(BIN)/python .ci/check.py

# one chapter by its number: its notebook is exported, checked by ruff and run as a test;
# then the tests that TESTS names
test-one: $(ENV)
	@VENV=$(VENV) TESTS='$(TESTS)' .ci/test_one $(NB)

docs: $(ENV)
	$(BIN)/python .ci/build_site.py

readme: $(ENV)
	$(BIN)/python .ci/build_site.py --readme

bench: $(ENV)
	for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

soak: $(ENV)
	$(ONE_THREAD) $(BIN)/python benchmarks/soak.py --seconds $(SOAK) --out benchmarks/results/soak.json

lab: $(ENV)
	@VENV=$(VENV) .ci/lab

# after editing notebooks: modules, clean notebooks and README in line with them
sync: $(ENV)
	$(BIN)/nbdev_export
	$(BIN)/python .ci/parts.py
	$(BIN)/nbdev_clean
	$(BIN)/python .ci/build_site.py --readme

# the stored outputs anew, from the code as it is
run-notebooks: $(ENV)
	$(ONE_THREAD) $(BIN)/python .ci/run_notebooks.py

clean:
	rm -rf _docs _proc $(OUT) build *.egg-info
