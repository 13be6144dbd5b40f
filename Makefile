# make demo    makes the environment without the suite's extras, trains and tests ELR and cross-entropy on noisy digits over three seeds, shows the comparison
# make quick   adds the extras to the environment and runs the tests of equations, networks, data and configurations: four minutes on two cores
# make test    adds the extras to the environment and runs the test suite
# make test-all   runs what takes longer, too
# make wheel   builds the package, installs it elsewhere, and trains and predicts with it
# make dist    builds wheel and source distribution in dist/ and checks them for the package index
# make test-lowest   runs the suite in .test-lowest/ with the oldest dependencies that pyproject.toml allows; TESTS= some of it
# make test-newest   the same with the newest ones, and prints what newer releases than allowed would break
# make lint    style, types
# make claims  runs every stated claim, published numbers included (NOISEWORKS_DATA for those of real data), keeps the figures in docs/claims.csv and writes the pages
# make pages   writes docs/ and the table of methods of README.md
# make docs    builds the documentation site in site/: every link and docstring is checked
# make pictures   makes the pictures of docs/, from runs that are made where they are missing (NOISEWORKS_DATA for those of real data)
# make data-tests  runs the tests that need real data (NOISEWORKS_DATA)
# make benchmarks  measures speed and memory and writes docs/benchmarks.md
# make gpu     measures on this machine's GPUs for 40 minutes and writes docs/gpu.md (NOISEWORKS_DATA for the real runs); repeat it to continue

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo quick test test-all wheel dist test-lowest test-newest lint claims pages docs pictures data-tests benchmarks gpu clean

demo: $(VENV)/installed
	$(RUN) train.py compare configs/elr/demo.yaml configs/elr/demo_baseline.yaml --seeds 0 1 2 --jobs 2 --output runs/demo --metrics test/accuracy,train/fit_true,train/memorized

TRAINING = callbacks distributed experiments conformance/test_runs.py conformance/test_simulated_device.py test_readme.py

quick: $(VENV)/installed-dev
	$(RUN) -m pytest --numprocesses 2 --dist loadfile $(addprefix --ignore=tests/,$(TRAINING))

test: $(VENV)/installed-dev
	$(RUN) -m pytest --numprocesses 2 --dist loadfile

test-all: $(VENV)/installed-dev
	$(RUN) -m pytest --numprocesses 2 --dist loadfile -m "not claim and not data and not benchmark"

wheel: $(VENV)/installed-dev
	$(RUN) -m pytest -m nightly tests/test_wheel.py

dist: $(VENV)/installed-dev
	rm -rf dist
	$(RUN) -m build
	$(RUN) -m twine check --strict dist/*

TESTS ?= tests
test-lowest: RESOLUTION = lowest-direct
test-newest: RESOLUTION = highest
test-lowest test-newest:
	$(PYTHON) -m venv --clear .$@
	.$@/bin/python -m pip install --quiet uv
	.$@/bin/uv pip install --quiet --python .$@/bin/python --resolution $(RESOLUTION) --editable '.[dev]'
	.$@/bin/python -m pytest --numprocesses 2 --dist loadfile $(TESTS)
	$(if $(filter test-newest,$@),.$@/bin/python -m pytest -m nightly tests/experiments/test_newest_versions.py)

lint: $(VENV)/installed-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

claims: $(VENV)/installed-dev
	$(RUN) train.py claim configs/*/claim.yaml --jobs 2 --record docs/claims.csv; status=$$?; $(RUN) train.py pages && exit $$status

pages: $(VENV)/installed-dev
	$(RUN) train.py pages

docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

pictures: $(VENV)/installed-dev demo
	$(RUN) train.py pages --pictures runs/pages --demo runs/demo

data-tests: $(VENV)/installed-dev
	$(RUN) -m pytest -m data

benchmarks: $(VENV)/installed-dev
	$(RUN) -m pytest -m benchmark --override-ini addopts=-ra tests/benchmarks --readme docs/benchmarks.md

GPU = $(RUN) -m pytest -m gpu --override-ini addopts=-ra

gpu: $(VENV)/installed-dev
	status=0; $(GPU) --numprocesses 6 tests/gpu/test_demos.py || status=$$?; \
	for file in ranks agreement speed memory kernels real_runs; do $(GPU) tests/gpu/test_$$file.py || status=$$?; done; \
	exit $$status

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(RUN) -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .test-lowest .test-newest dist runs site
