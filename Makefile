# make setup   .venv with the exact versions that are tested
# make demo    draw the demo data, train, evaluate, caption a picture
# make test    every test but the slow ones
# make check   format, lint, types
# make readme  the generated parts of the README and of docs/
# make gpu     is it right and fast on this machine's CUDA device (8 minutes; benchmarks/gpu.py)
# make audit   known vulnerabilities of the pinned packages (asks PyPI)

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
DEMO := --config presets/demo.toml
DEMO_RUN := checkpoints/demo

.PHONY: setup demo test test-slow gpu check audit format readme readme-demo clean-demo

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) torch -c constraints.txt
	$(INSTALL) -e .[dev] -c constraints.txt
	touch $@

demo: export HF_HUB_OFFLINE = 1
demo: export WANDB_MODE = disabled
demo: setup
	$(BIN)/python train.py $(DEMO) --RESUME_CHECKPOINT_PATH auto
	$(BIN)/python evaluate.py --checkpoint $(DEMO_RUN)/best --output $(DEMO_RUN)/evaluation
	$(BIN)/python generate.py --checkpoint $(DEMO_RUN)/best --image data/demo/test \
		--attention $(DEMO_RUN)/attention.png --limit 1
	@echo "Look at $(DEMO_RUN)/evaluation/report.html and $(DEMO_RUN)/attention.png"

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# Also where nothing can be installed: with the python that is there, if .venv is not.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py --output gpu

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy *.py captioning tests benchmarks docs

audit: setup
	$(INSTALL) pip-audit
	$(BIN)/pip-audit --strict --no-deps --disable-pip -r constraints.txt

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

readme: setup
	$(BIN)/python docs/refresh_readme.py

readme-demo: demo
	$(BIN)/python docs/record_demo.py $(DEMO_RUN)
	$(BIN)/python docs/first_look.py $(DEMO_RUN) data/demo/test/scene_000240.jpg
	$(BIN)/python docs/refresh_readme.py

clean-demo:
	rm -rf data/demo $(DEMO_RUN)
