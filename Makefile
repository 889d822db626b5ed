# One word a chore. Everything installs into .venv; nothing outside the checkout is touched
# but pip's own cache and, for `make demo`, the model store (VESTAL_HOME, else ~/.local/share/vestal).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test security lint bench plots screenshots reference clean fuzz

help: ## what each word does
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1); Vestal needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) has no venv module; on Debian: apt install python3-venv python3-dev" >&2; exit 1; }
	@command -v c++ >/dev/null || { echo "make: no C++ compiler; on Debian: apt install g++" >&2; exit 1; }
	@echo "== setting up $(VENV) (the first time compiles llama.cpp: about four minutes on two cores)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt 'pip>=24.1'
	@$(BIN)/pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[all,dev]'
	@touch $@

install: $(STAMP) ## set up .venv with the daemon, the adapters and the development tools

demo: $(STAMP) ## fetch two small models, start a private vestald, watch it answer
	@$(BIN)/python examples/demo.py

test: $(STAMP) ## the whole suite
	@$(BIN)/python -m pytest $(ARGS)

security: $(STAMP) ## the proofs of THREAT_MODEL.md, finding by finding (ARGS="12 38": only those)
	@$(BIN)/python -m tests.security.report $(ARGS)

lint: $(STAMP) ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(STAMP) ## the benchmarks, as ratios in one run
	@$(BIN)/python -m benchmarks

plots: $(STAMP) ## the pictures of docs/, from the simulations they show
	@$(BIN)/python -m benchmarks.admission_plot

screenshots: $(STAMP) ## the pictures of the commands in docs/screenshots, from a private daemon
	@$(BIN)/python -m examples.screenshots

reference: $(STAMP) ## docs/reference, from the declarations of options and messages
	@$(BIN)/python -m vestald.config.reference > docs/reference/options.md.new
	@mv docs/reference/options.md.new docs/reference/options.md
	@cd protocol && ../$(BIN)/python -m vectors.reference > ../docs/reference/messages.md.new
	@mv docs/reference/messages.md.new docs/reference/messages.md

clean: ## remove .venv and caches (not the model store)
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
