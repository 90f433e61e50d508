# tdagger: `make help` lists what there is. Nothing is needed beforehand but Python 3.11 and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
# Touched when the environment was made from the present pyproject.toml and constraints.txt.
READY := $(VENV)/.ready
# Of pytest: a process per core, which takes tests of another's share when its own is done.
PARALLEL := -n auto --maxprocesses 8 --dist worksteal
BENCHMARKS := $(sort $(wildcard benchmarks/[a-z]*.py))

# Python's compiled code is kept, whatever the surroundings say: every process of the tests would compile it anew.
export PYTHONDONTWRITEBYTECODE :=

# Of `make fuzz`: the first seed, and seconds in which programs are started.
SEED ?= 1
TIME ?= 60

.DEFAULT_GOAL := help
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\#.*/\1/p' Makefile)

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## *' '{printf "make %-24s  %s\n", $$1, $$2}'

setup: $(READY)  ## Make .venv with everything (the other targets do it when needed)

# Always with the constraints: they pick the CPU build of torch, and the versions that are tested.
$(READY): pyproject.toml constraints.txt $(wildcard support/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[cli,torch,zoo,dev]' ./support/torchvision_cpu
	@touch $@

demo: $(READY)  ## Inspect resnet50, convert it to a TDAG and back, compare the outputs, draw it as a page
	$(BIN)/tdagger inspect timm:resnet50
	$(BIN)/tdagger verify timm:resnet50
	mkdir -p build
	$(BIN)/tdagger view timm:resnet50 -o build/resnet50.html --force

test: style  ## Lint, then run every test but the slow ones on all cores, and check types meanwhile
	@$(MAKE) --no-print-directory -j2 types tests

tests: $(READY)  ## Run every test but the slow ones, on all cores
	$(BIN)/python -m pytest $(PARALLEL)

test-browser: $(READY)  ## Run the tests of the page that `tdagger view` writes, BROWSER=firefox in Firefox; fails where there is none (needs npm)
	cd web && npm ci --ignore-scripts --no-audit --no-fund
	TDAGGER_NEED_BROWSER=1 TDAGGER_BROWSER=$(or $(BROWSER),chromium) $(BIN)/python -m pytest tests/view/test_page.py

page:  ## Build the page that `tdagger view` fills, out of web/ (needs npm)
	cd web && npm ci --ignore-scripts --no-audit --no-fund && npm run check && npm run build

page-check:  ## Check that the page that is committed is what web/ gives (needs npm)
	mkdir -p build
	cd web && npm ci --ignore-scripts --no-audit --no-fund && npm run check && npm run build -- ../build/page.html
	cmp build/page.html src/tdagger/view/page.html

test-slow: $(READY)  ## Run the slow sweeps
	$(BIN)/python -m pytest -m slow $(PARALLEL)

lint: style types  ## Check format, lint and types

style: $(READY)  ## Check format and lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check

types: $(READY)  ## Check types
	$(BIN)/pyright

format: $(READY)  ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

conformance-ops: $(READY)  ## Run torch's op database through import and back (about half an hour; goes on where it stopped)
	$(BIN)/python conformance/coverage.py
	$(BIN)/python conformance/ops.py

bench: $(READY)  ## Run every benchmark, one after the other
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

conformance-timm: $(READY)  ## Sweep the smallest model of every family of timm (an hour), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.models timm

conformance-transformers: $(READY)  ## Sweep a tiny model of each kind of transformers (an hour), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.models transformers

conformance-axes: $(READY)  ## Unbatch and resize every network of both sweeps (an hour), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.axes timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.axes transformers

conformance-sizes: $(READY)  ## Call to_torch()'s modules at other sizes, every network of both sweeps (an hour), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.sizes timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.sizes transformers

conformance-passes: $(READY)  ## Take 30 networks through every pass and compare (twenty minutes), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.passes timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.passes transformers
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.passes recurrent

conformance-prune: $(READY)  ## Prune the networks of the sweeps and check what is left (two hours), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.prune timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.prune transformers
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.prune timm-folded

conformance-quantize: $(READY)  ## Quantize one network of every timm family and measure what is lost (an hour), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.quantize timm

conformance-code: $(READY)  ## Write the page with the code of four networks
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.code

conformance-costs: $(READY)  ## Compare the costs of every network of both sweeps with what torch runs (half an hour), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.costs timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.costs transformers

conformance-layers: $(READY)  ## Look for the layers of the networks of both sweeps after going there and back (an hour), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.layers timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.layers transformers

conformance-onnx: $(READY)  ## Run onnx's backend suite through the importer (ten minutes; goes on where it stopped), and onnxruntime; write the table
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.onnx_backend --engine onnxruntime || true
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.onnx_backend

conformance-onnx-export: $(READY)  ## Sweep 25 families of timm and 15 kinds of transformers as ONNX files, write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.onnx_export timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.onnx_export transformers

conformance-onnx-frozen: $(READY)  ## Change the batch of networks that torch froze at 1 in ONNX files (onnxscript, if it is there, for its dynamo exporter), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.onnx_frozen timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.onnx_frozen transformers

conformance-onnx-again: $(READY)  ## Write again what torch's exporters wrote of 40 networks (onnxscript, if it is there, for dynamo's), write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.onnx_again timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.onnx_again transformers

conformance-silero: $(READY)  ## Compare silero-vad's TorchScript as a program with torch.jit: make conformance-silero FILES=folder
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.silero $(or $(FILES),build/files)

conformance-onnx-programs: $(READY)  ## Compare real ONNX files with control flow as programs: FILES=folder, write the table
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.onnx_programs $(or $(FILES),build/onnx-files)

conformance-onnx-files: $(READY)  ## Compare real ONNX files with onnxruntime: make conformance-onnx-files FILES=folder, write the table
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.onnx_files $(or $(FILES),build/onnx-files)

conformance-tflite: $(READY)  ## Compare operators and real TFLite files with ai-edge-litert: make conformance-tflite FILES=folder, write the table
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.tflite ops $(or $(N),40)
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.tflite files $(or $(FILES),build/tflite-files)

conformance-tflite-export: $(READY)  ## Sweep 25 families of timm and 12 encoders of transformers as TFLite files, write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.tflite_export timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.tflite_export transformers

conformance-coreml: $(READY)  ## Run coremltools' tests of ops through the importer, one of EVERY (12: ten minutes), write the table
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.coreml_ops --every $(or $(EVERY),12)
	OMP_NUM_THREADS=1 PYMIL_TEST_TARGETS=neuralnetwork $(BIN)/python -m conformance.coreml_ops --every $(or $(EVERY),12)
	$(BIN)/python -m conformance.coreml_ops table

conformance-coreml-export: $(READY)  ## Sweep 25 families of timm and 15 kinds of transformers as CoreML packages, write the table
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.coreml_export timm
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m conformance.coreml_export transformers

fuzz: $(READY)  ## Check random programs on all cores: make fuzz SEED=1 TIME=60, or N=500
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.fuzz --seed $(SEED) $(if $(N),--count $(N),--time $(TIME))

fuzz-file: $(READY)  ## Feed td.load with mutated files, guided by coverage (atheris): make fuzz-file TIME=600
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	mkdir -p build/fuzz
	OMP_NUM_THREADS=1 $(BIN)/python -m conformance.fuzz_file build/fuzz tests/file/corpus -max_total_time=$(TIME) \
	  -timeout=20 -rss_limit_mb=2048 -artifact_prefix=build/

clean:  ## Remove .venv and everything else that was made here
	rm -rf $(VENV) build dist web/node_modules .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
