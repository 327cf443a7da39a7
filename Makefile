# Two commands: `make demo` shows the whole thing on built-in data, `make test` runs all tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := results/demo
PARALLEL := -n 2 --dist loadfile --max-worker-restart 0

.PHONY: demo test clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	# Its demand of OpenCV 4 would replace the one that the measurements were taken with.
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt "openvino-model-api ; python_version >= '3.11'"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/anomalib train --model UniASLite --data configs/data/unified_synthetic.yaml \
		--default_root_dir $(DEMO) --trainer.accelerator cpu --trainer.max_steps 250 \
		--trainer.callbacks anomalib_unias.EvaluationReport
	$(BIN)/anomalib export --model UniASLite --export_type openvino --export_root $(DEMO)/export \
		--ckpt_path "$$(ls -t $(DEMO)/UniASLite/*/*/v*/weights/lightning/*.ckpt | head -1)"
	$(BIN)/python examples/inspect_exported.py $(DEMO)/export/weights/openvino/model.xml --output $(DEMO)/inspected

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) tests/unit src
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) tests/integration

clean:
	rm -rf $(VENV) results
