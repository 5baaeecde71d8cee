# Every target makes the environment that it needs (uv where there is one, else venv and pip) and reuses it the next time.
# PYTHON is any Python >= 3.10; it only starts the scripts in tools/.
PYTHON ?= python3
ENV = $(PYTHON) tools/env.py

.PHONY: help env demo test test-slow test-latest lint docs readme report export bench load soak zoo apps matrix attack clean

help:         ## this list
	@$(PYTHON) tools/env.py --help-targets Makefile
env:          ## make the environments: .venv (work), .venv-run (run side), .venv-latest (newest fastai), .venv-triton
	$(ENV) dev run latest triton
demo:         ## train the sample model, export, verify, predict without fastai and torch
	$(ENV) dev run --exec tools/demo.py $(ARGS)
test:         ## every check: lint, structure, notebooks, the package from outside, attacks, newest fastai
	$(ENV) dev run latest triton --exec tools/check.py $(ARGS)
test-slow:    ## the notebook cells flagged `slow`, too
	$(ENV) dev run --exec tools/check.py --slow --only notebooks $(ARGS)
test-latest:  ## export, verify and predict with the newest fastai, without nbdev
	$(ENV) latest run --exec tools/check.py --only latest $(ARGS)
lint:         ## ruff
	$(ENV) dev --exec tools/check.py --only lint $(ARGS)
docs:         ## the site, into _docs, its links checked (Quarto where there is one, else Sphinx)
	$(ENV) dev --exec tools/docs.py $(ARGS)
readme:       ## README.md from nbs/index.ipynb
	$(ENV) dev --exec tools/readme.py $(ARGS)
report:       ## sizes of notebooks and code, to look at (ARGS=--table writes what the docs show)
	$(ENV) dev --exec tools/figures.py $(ARGS)
export:       ## notebooks -> modules, notebooks cleaned, README.md
	$(ENV) dev --exec tools/export.py $(ARGS)
bench:        ## speed, cold start and size, against fastai
	$(ENV) dev run latest --exec tools/bench.py $(ARGS)
load:         ## requests a second, and how late: our server against three others (cargo install oha; a quarter of an hour)
	$(ENV) dev --exec tools/load.py $(ARGS)
soak:         ## 100,000 requests of all kinds against a server: is each answered, by the answer that is its own?
	$(ENV) dev --exec tools/soak.py $(ARGS)
zoo:          ## which nets: one of every family that fastai can train, into nbs/reference/zoo.json (about an hour)
	$(ENV) dev --exec tools/zoo.py $(ARGS)
apps:         ## the programs in other languages: build, test on the goldens, compare their decoders
	$(ENV) dev --exec tools/apps.py $(ARGS)
matrix:       ## bundles made under two Pillows, run under every Pillow, numpy and onnxruntime named (half an hour)
	$(ENV) dev run latest --exec tools/matrix.py $(ARGS)
attack:       ## hostile bundles, models and images, and kills, at length: into nbs/reference/attacks.json (a quarter of an hour)
	$(ENV) dev --exec tests/attack/run.py --table $(ARGS)
clean:        ## remove what the targets made, the environments too
	$(PYTHON) tools/env.py --clean
