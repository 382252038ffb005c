# The two commands of the README, and what developers use. Needs Python 3.11 to 3.13 with pip and venv, nothing else.

PYTHON ?= python3
VENV ?= .venv
export PATH := $(abspath $(VENV))/bin:$(PATH)
TOOLS ?= .venv-tools
COMPILE = pip-compile --quiet --generate-hashes --allow-unsafe --strip-extras --no-header \
  --no-emit-index-url --no-emit-find-links
RESULTS ?= results/digits
CONFIG = $(if $(EXPERIMENT),--configfile config/experiments/$(EXPERIMENT).yaml)

.PHONY: help paper_figures test test_attacks test_stories test_slurm test_real_data doctor crate tools docs environment \
  figure report lint format lock benchmark dvc_yaml clean

help:
	@echo "make paper_figures               every figure and table of the default experiment"
	@echo "make paper_figures EXPERIMENT=X  the same for config/experiments/X.yaml"
	@echo "make figure NAME=two_sides       one figure"
	@echo "make test                        the tests"
	@echo "make test_real_data              the tests on real archives (OPENSET_MIRROR names their folder)"
	@echo "make test_stories                kills, full disks, whole workflows, DVC remotes, RO-Crate (minutes)"
	@echo "make test_attacks                bad and hostile input, faults, kills and fuzzing (minutes)"
	@echo "make test_slurm                  the tests on a SLURM cluster that they start themselves"
	@echo "make report                      report.html: figures, tables and how they were made"
	@echo "make crate [RESULTS=FOLDER]      a finished experiment as an RO-Crate, in crate/ and crate.zip"
	@echo "make doctor                      what keeps Snakemake or DVC from working here, and what helps"
	@echo "make docs                        the documentation site, in build/site; open build/site/index.html"
	@echo "make lint | format | lock | benchmark | dvc_yaml"
	@echo "make clean                       removes results/ with every trained network"

paper_figures: environment
	python tools/start.py --cores all paper_figures $(CONFIG)

figure: environment
	python tools/start.py --cores all $(NAME) $(CONFIG)

report: environment
	python tools/start.py --report report.html paper_figures $(CONFIG)

test: environment
	python -m pytest -n 2 --dist loadfile -m "not real_data and not slurm and not stories and not attacks" tests

# Bad and hostile input, faults, fuzzing and kills: docs/robustness.md has the counts.
test_attacks: environment
	python -m pytest -n 2 --dist worksteal -m attacks tests/attacks

test_stories: environment tools
	python -m pytest -n 2 --dist loadfile -m stories tests

# Needs the official archives in the folder that OPENSET_MIRROR names; without it every test says so and is skipped.
test_real_data: environment
	python -m pytest -m real_data tests

# Needs the programs of SLURM, MariaDB and MUNGE; without them every test says how to install them and is skipped.
test_slurm: environment
	python -m pytest -m slurm tests

environment:
	@if $(MAKE) --question --no-print-directory $(VENV)/installed; \
	then echo "environment: $(VENV) reused (it fits requirements.lock)"; \
	else $(MAKE) --no-print-directory $(VENV)/installed; fi

# The stamp is newer than the lock and the package's own metadata, or the environment is brought up to date.
$(VENV)/installed: requirements.lock pyproject.toml
	@echo "environment: installing into $(VENV); this takes some minutes the first time"
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

crate: environment
	python tools/crate.py --results $(RESULTS) --folder crate --zip

doctor: environment
	python tools/doctor.py

# Validators, a server for the tests, the documentation's generator: apart from the stack that they would contradict.
tools: $(TOOLS)/installed

$(TOOLS)/installed: requirements-tools.lock
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

docs: environment tools
	python tools/docs_site.py --folder build/docs
	NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/mkdocs build --quiet --strict

lint: environment tools
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile rules
	snakemake --lint
	$(TOOLS)/bin/basedpyright --pythonpath $(VENV)/bin/python --level error
	$(TOOLS)/bin/codespell

format: environment
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

lock: environment
	$(COMPILE) --extra workflow --extra analysis --extra pretrained --extra export --extra remotes --extra dev \
	  --output-file requirements.lock pyproject.toml
	$(COMPILE) --output-file requirements-tools.lock requirements-tools.in

benchmark: environment
	python benchmarks/workflow.py --json docs/benchmarks/workflow.json
	python benchmarks/training.py --case small_64 --json docs/benchmarks/training_small.json
	python benchmarks/quality.py --json docs/benchmarks/quality.json
	python benchmarks/scale.py --json docs/benchmarks/scale.json
	python benchmarks/analysis.py --json docs/benchmarks/analysis.json
	python benchmarks/report.py

dvc_yaml: environment
	python tools/dvc_stages.py --write

environment.yml: requirements.lock pyproject.toml
	python tools/write_environment.py --write

clean:
	rm -rf results .snakemake/log .snakemake/locks
