VENV ?= .venv
# cpu, gpu, or auto: gpu where nvidia-smi finds one
PLATFORM ?= auto
KILLS ?= 20

.DEFAULT_GOAL := help
.PHONY: help install install-dev rehearsal test soak invariants hostile kills lint lock

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## set up .venv with the locked packages (PLATFORM=cpu|gpu|auto)
	@requirements/install.sh $(PLATFORM) --venv $(VENV)

install-dev: ## the same with the tools that test and check
	@requirements/install.sh $(PLATFORM) --venv $(VENV) --dev

rehearsal: install ## a whole fusion of tiny models on this machine
	$(VENV)/bin/crucible run rehearsal/recipe.yaml

test: install-dev ## the tests, without the long ones
	$(VENV)/bin/pytest -n 3 --dist worksteal -m "not integration and not soak"
	$(VENV)/bin/pytest -m "integration and not soak"

soak: install-dev ## the long tests
	$(VENV)/bin/pytest -m soak --timeout 7200

invariants: install-dev ## that workers, batching, strategies and kills change no step of training
	$(VENV)/bin/pytest tests/integration/test_training.py -m "integration or soak" --timeout 7200

hostile: install-dev ## harmful programs in the sandbox: none passes, none harms
	$(VENV)/bin/pytest tests/fusion/verification/test_hostile.py

kills: install-dev ## sampling and scoring killed at KILLS random moments (20); nothing lost, nothing doubled
	CRUCIBLE_KILLS=$(KILLS) $(VENV)/bin/pytest tests/integration/test_kills.py -m soak --timeout 7200

bench-%: install-dev ## one benchmark: gateway ingest rehearsal sampling scale selection training verify
	$(VENV)/bin/python benchmarks/$*.py

lint: install-dev ## format, lint, types, and which package may import which
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

lock: install ## make requirements/*.txt again from pyproject.toml
	VENV=$(VENV) requirements/lock.sh
