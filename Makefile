# make run: environment, default model, the app.   make test: the whole suite.
# make shapes: every readout on random models of true size, of each family (6.5 GiB of memory, 10 to 20 minutes).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test shapes bench keys settings tour schedules pictures clean

run: $(READY)
	@$(BIN)/stagescope models pull >/dev/null
	@$(BIN)/stagescope

test: $(READY)
	@$(BIN)/stagescope models pull >/dev/null
	$(BIN)/python -m pytest --durations=20

shapes: $(READY)
	$(BIN)/python tests/shape_checks.py

bench: $(READY)
	$(BIN)/python -m tests.benchmarks

keys: $(READY)
	$(BIN)/python -m stagescope.actions > docs/keys.md

settings: $(READY)
	$(BIN)/python -m stagescope.settings

tour: $(READY)
	$(BIN)/python -m stagescope.reports.tour > docs/tour.md

schedules: $(READY)
	$(BIN)/python docs/schedules.py > docs/schedules.md

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("stagescope needs Python 3.11 or later; this is %s. Try: make PYTHON=python3.12" % sys.version.split()[0])'
	@echo "Making the environment in $(VENV): about a minute and a half."
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

pictures: $(READY)
	@$(BIN)/stagescope models pull >/dev/null
	$(BIN)/python docs/pictures.py

clean:
	rm -rf $(VENV) build *.egg-info
