# Needs python3.11 and make; every target sets up what it needs. PROFILE, CORES and PYTHON can be given on the command line.
PYTHON ?= python3.11
VENV ?= .venv
PROFILE ?= micro
CORES ?= all
BIN := $(VENV)/bin
SNAKEMAKE := $(BIN)/python -m snakemake --quiet rules reason host --cores $(CORES) --config profile=$(PROFILE) --rerun-incomplete
export OMP_NUM_THREADS := 1
# Snakemake ends at once where its folder for caches cannot be made, as with a HOME that is read-only.
ifneq ($(shell d="$${XDG_CACHE_HOME:-$$HOME/.cache}/snakemake"; mkdir -p "$$d" 2>/dev/null && test -w "$$d" && echo yes),yes)
export XDG_CACHE_HOME := $(or $(TMPDIR),/tmp)/lmmr1-cache-$(shell id -u)
endif
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup reproduce readme audit docs football test mutants faults twice fuzz oracle lint types format speed bench clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.ready  ## make the virtual environment from requirements.lock

# ms-vlmeval (VLMEvalKit) is installed without dependencies: it declares 28 packages that evaluation never imports.
$(VENV)/.ready: requirements.lock pyproject.toml envs/torchvision_cpu_shim.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps ms-vlmeval==0.0.20 -e .
	site=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	cp envs/torchvision_cpu_shim.py "$$site/" && echo 'import torchvision_cpu_shim' > "$$site/torchvision_cpu_shim.pth"
	touch $@

reproduce: setup  ## train and evaluate all arms, write results/PROFILE/report/
	$(SNAKEMAKE) -- reproduce_all
	@echo "report: results/$(PROFILE)/report/index.html"

readme: reproduce  ## put the measured table into README.md
	$(SNAKEMAKE) -- readme

audit: setup  ## write docs/audit.md: what the paper's own numbers say
	$(SNAKEMAKE) -- audit

docs: setup  ## the documentation as a site, site/index.html
	$(BIN)/python -m mkdocs build --quiet --strict

football: .football/version  ## build the real football simulator (Debian; 6 to 12 minutes, optional)

.football/version: envs/build_football.sh
	envs/build_football.sh .football

test: setup  ## run all tests, the smoke profile end to end among them
	$(BIN)/python -m pytest -n 2 --dist loadscope --durations 40

mutants: setup  ## put small faults into the training code and see that a test notices each of them
	$(BIN)/python -m mutants

faults: setup  ## break the smoke profile in over 100 ways, write the result into docs/reliability.md
	$(BIN)/python -m faults --docs docs/reliability.md

twice: setup  ## compare this clone's run of PROFILE with the one in OTHER=path, byte by byte
	$(BIN)/python -m faults.twice --profile $(PROFILE) compare . $(OTHER)

FUZZ_SECONDS ?= 600
fuzz: setup  ## fuzz every parser of outside text, 10 minutes each (FUZZ_SECONDS=...)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	for t in $$($(BIN)/python -c 'from tests.fuzz_targets import TARGETS; print(*TARGETS)'); do \
	  $(BIN)/python -m tests.fuzz $$t -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=4096 -verbosity=0 || exit 1; done

PAIRS ?= 20000
oracle: setup  ## the verifier against an exact oracle on fresh generated pairs (PAIRS=20000, 6 to 20 minutes)
	$(BIN)/python -m tests.oracle_run --pairs $(PAIRS)

lint: setup  ## ruff, and the workflow's formatter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile reproduce/rules

types: setup  ## mypy, strict on lmmr1/
	$(BIN)/python -m mypy

format: setup  ## reformat the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile reproduce/rules

speed: setup  ## a small point against TRL; fails where we are not 1.5 times as fast
	$(BIN)/python -m bench.compare --quick --rounds 2 --skip-gate --at-least 1.5

bench: setup  ## speed against TRL, as ratios measured side by side
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only -o addopts=-q
	$(BIN)/python -m bench.compare --out bench/results/$$(date +%F).json

clean:  ## remove results and checkpoints (not the environment)
	rm -rf results checkpoints .snakemake
