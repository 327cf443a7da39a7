# `make demo` shows the whole thing on built-in data, `make test` runs all tests, `make docs` builds the site.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := results/demo
# In the order given: the long files are in tests/integration.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
# A warning is an error. The variable silences a notice about the successor of mkdocs-material.
SITE := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: demo test docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch torchvision
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	# Its demand of OpenCV 4 would replace the one that the measurements were taken with.
	$(BIN)/python -m pip install --quiet --no-deps -c constraints.txt "openvino-model-api ; python_version >= '3.11'"
	touch $@

demo: $(VENV)/.installed
	$(BIN)/anomalib train --model UniASLite --data configs/data/unified_synthetic.yaml --data.root $(DEMO)/products \
		--default_root_dir $(DEMO) --trainer.accelerator cpu --trainer.max_steps 250 \
		--trainer.callbacks anomalib_unias.EvaluationReport \
		--model.post_processor CadaPostProcessor --model.post_processor.false_alarm_rate 0.05
	$(BIN)/anomalib export --model UniASLite --export_type openvino --export_root $(DEMO)/export \
		--ckpt_path "$$(ls -t $(DEMO)/UniASLite/*/*/v*/weights/lightning/*.ckpt | head -1)"
	rm -rf $(DEMO)/images $(DEMO)/inspected $(DEMO)/inspected.jsonl && mkdir $(DEMO)/images
	cd $(DEMO)/images && for test in ../products/*/test; do cp -r $$test $$(basename $$(dirname $$test)); done
	$(BIN)/anomalib-unias inspect $(DEMO)/export/weights/openvino/model.xml $(DEMO)/images \
		--output $(DEMO)/inspected.jsonl --overlays $(DEMO)/inspected
	@echo "Report: $$(ls -t $(DEMO)/UniASLite/*/*/v*/report/index.html | head -1). Export: $(DEMO)/export."
	@echo "What the exported model says: $(DEMO)/inspected.jsonl, pictures in $(DEMO)/inspected."

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(SITE)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PARALLEL) tests/integration tests/unit src

docs: $(VENV)/.installed
	$(SITE)

clean:
	rm -rf $(VENV) results site
