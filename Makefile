# Every target installs what it needs into .venv (Python >= 3.11 is all that must be there).
PYTHON ?= python3
VENV := .venv
DOCS := .venv-docs
AUDIT := .venv-audit
UPGRADE := --upgrade
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --python-version 3.11

.PHONY: run test check smoke docs demo words chaos bench deploy-test lint audit dashboards types format lock install clean

run: install  ## the whole system, in the foreground; Ctrl-C stops it
	$(BIN)/python manage.py cluster up $(ARGS)

test: install  ## all tests, against clusters of their own; ARGS="tests/unit -k fold" for some of them
	$(BIN)/python -m tests.support.everything $(ARGS)

check: install  ## style, types, unit tests and a few of each kind on a cluster that is kept in .cluster-test: under a minute
	$(MAKE) --no-print-directory -j2 lint smoke

smoke: install
	$(BIN)/python -m tests.support.kept .cluster-test
	TALLY_TEST_CLUSTER=.cluster-test $(BIN)/python -m pytest -q -m smoke $(ARGS)

lint: install
	.ci/secrets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types

dashboards:  ## Grafana's dashboards against the types of Grafana; needs npm, and fetches two packages
	cd monitoring/types && npm ci --no-audit --no-fund && npm run --silent check

audit:  ## whether a pinned package has a known vulnerability; asks the advisories of PyPI, so it needs the Internet
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	set -e; for lock in requirements/*.txt; do $(AUDIT)/bin/pip-audit --disable-pip --require-hashes --requirement $$lock; done

types: install
	env $$(grep -v '^#' .env.example | tr '\n' ' ') $(BIN)/mypy .

demo: install  ## walk through docs/demo.md in a small cluster of its own: every command is run, every output compared
	$(BIN)/python -m benchmarks.demo $(ARGS)

docs: install $(DOCS)/.installed  ## the documentation as a site: .site/html/index.html; a link that leads nowhere is an error
	mkdir -p .site
	env $$(grep -v '^#' .env.example | tr '\n' ' ') $(BIN)/python manage.py spectacular --file .site/openapi.yaml
	$(BIN)/python -m docs.site.pages .site/openapi.yaml .site/source
	$(DOCS)/bin/python -m sphinx -q -W --keep-going -E -b html -d .site/doctrees -c docs/site .site/source .site/html
	@echo "built: .site/html/index.html"

words: install  ## count every word of the standard library, on the running cluster
	$(BIN)/python -m benchmarks.words $(ARGS)

chaos: install  ## kill everything, again and again, under writes, then compare every key; ARGS="--minutes 10 --seed 1 --faults 100"
	$(BIN)/python -m benchmarks.chaos $(ARGS)

bench: install  ## every figure beside its peers, in one run of about 30 minutes; ONLY=bulk,reads; ARGS="--repeats 1 --scale 0.2"
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(ARGS)

deploy-test: install  ## docker-compose.production.yml on this machine's Docker engine, from the build to `down`; ARGS="--stand-ins" where no image can be pulled
	$(BIN)/python -m deploy.test $(ARGS)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(STAMP)

# Two packages have no wheels (python-etcd and ydiff, pure Python). A pinned setuptools builds them, so pip fetches nothing that has no hash.
$(STAMP): requirements/build.txt requirements/all.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tally needs Python 3.11 or newer; say make PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "python3 has no venv module: install it (Debian: python3-venv), or say make PYTHON=..."; exit 1; }
	$(PIP_INSTALL) --only-binary :all: -r requirements/build.txt
	$(PIP_INSTALL) --only-binary :all: --no-binary python-etcd,ydiff --no-build-isolation --use-pep517 -r requirements/all.txt
	@touch $@

# Sphinx is nothing that Tally runs with, or that its tests need.
$(DOCS)/.installed: requirements/docs.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r $<
	@touch $@

lock: install  ## pin the newest versions that pyproject.toml allows, with hashes and without addresses; UPGRADE= keeps the versions there are
	$(LOCK) $(UPGRADE) pyproject.toml -o requirements/production.txt
	$(LOCK) $(UPGRADE) --all-extras --constraint requirements/production.txt pyproject.toml -o requirements/all.txt
	$(LOCK) --extra otel --constraint requirements/all.txt pyproject.toml -o requirements/traces.txt
	$(LOCK) $(UPGRADE) --group build -o requirements/build.txt
	$(LOCK) $(UPGRADE) --group docs -o requirements/docs.txt
	$(LOCK) --constraint requirements/all.txt --group servers -o requirements/servers.txt

clean:  ## the environment and caches; the cluster's data is destroyed by: manage.py cluster destroy
	rm -rf $(VENV) $(DOCS) $(AUDIT) .site .mypy_cache .ruff_cache .pytest_cache .hypothesis
