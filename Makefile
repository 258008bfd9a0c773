# Every command of Stillroom. `make` alone lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
REAL ?=
DATA ?= ../shared/data/tiny-imagenet
# OpenMP threads that sleep instead of spin: several processes share a small machine without stalling each other.
export OMP_WAIT_POLICY ?= passive
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: help setup lock demo test check up bench bench-distil bench-full-size bench-generate bench-images bench-optimizers bench-photos bench-teacher bench-views bench-tiny-decoder bench-scale bench-simulated-job bench-time-to-accuracy bench-smoke bench-students bench-cold-start bench-profile-stages starter docs clean

help:  ## List the commands
	@grep -E '^[a-z-]+:.*##' Makefile | awk -F':.*## ' '{printf "  make %-24s %s\n", $$1, $$2}'

setup: $(VENV)/.ready  ## Make .venv with everything in it (brings uv itself)

$(VENV)/.ready: requirements/dev.txt client/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Say PYTHON=/path/to/python3.11"; exit 1; }
	@test -x build/uv/bin/uv || { $(PYTHON) -m venv build/uv && build/uv/bin/pip install --quiet --disable-pip-version-check uv; }
	build/uv/bin/uv venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	build/uv/bin/uv pip sync --quiet --python $(BIN)/python requirements/dev.txt
	build/uv/bin/uv pip install --quiet --python $(BIN)/python --no-deps --editable client
	@touch $@

lock:  ## Write the lock files from requirements/*.in
	@for name in api worker dev; do build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --output-file requirements/$$name.txt requirements/$$name.in; done

demo: setup  ## The whole job, from words to a downloaded encoder (REAL=parquet|zip|folder adds real photos)
	$(BIN)/python -m demo $(if $(REAL),--real $(REAL))

up: setup  ## The service, embedded, in the foreground, until Ctrl-C
	$(BIN)/python -m workers.embedded

check: setup  ## Lint, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## Lint, types, import contracts and every test, in two processes (each starts its own PostgreSQL and Redis)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

bench: bench-distil bench-generate bench-images bench-teacher bench-scale bench-time-to-accuracy bench-students bench-cold-start  ## All benchmarks

bench-distil: setup  ## Training steps of open_clip, online L2 and a cached loop against ours, and our loop against its bare step
	$(BIN)/python -m benchmarks.distil

bench-full-size: setup  ## Every stage of the shipped recipes at full model size, with random weights: images/s and peak memory (needs a CUDA GPU; hours otherwise)
	$(BIN)/python -m benchmarks.full_size

bench-generate: setup  ## A plain diffusers loop against our sampler and JPEG writer
	$(BIN)/python -m benchmarks.generate

bench-images: setup  ## Readers of training images, and the import of photos, against their peers and limits
	$(BIN)/python -m benchmarks.images

bench-teacher: setup  ## open_clip's encode_image against our teacher features, and what more views cost
	$(BIN)/python -m benchmarks.teacher

bench-views: setup  ## What 1, 2, 4, 8 and 16 views of each image give a student (DATA adds real photos)
	$(BIN)/python -m benchmarks.views $(if $(DATA),--data $(DATA))

bench-optimizers: setup  ## AdamW and Muon on photos and on synthetic images, from random weights and from a base student (DATA: folder of Tiny ImageNet)
	$(BIN)/python -m benchmarks.optimizers --data $(DATA)

bench-tiny-decoder: setup  ## What a tiny decoder in the generator costs a student (DATA adds real photos)
	$(BIN)/python -m benchmarks.tiny_decoder $(if $(DATA),--data $(DATA))

bench-scale: setup  ## Generation with 1, 2 and 4 workers of the service against ideal
	$(BIN)/python -m benchmarks.scale

bench-simulated-job: setup  ## SIMULATION of jobs of 10^4, 10^5 and 10^6 images: rows, messages, files, memory
	$(BIN)/python -m benchmarks.simulated_job

bench-time-to-accuracy: setup  ## Seconds until the student is as good as it gets, for ours, online L2 and open_clip (DATA adds real photos)
	$(BIN)/python -m benchmarks.time_to_accuracy $(if $(DATA),--data $(DATA))

bench-smoke: setup  ## Every benchmark at a reduced size: are the ratios still the committed ones? (WRITE=1 writes new ones)
	$(BIN)/python -m benchmarks.smoke $(if $(WRITE),--write)

bench-students: setup  ## The catalogue's students in onnxruntime against ViT-B/32; writes docs/results/students.md
	$(BIN)/python -m benchmarks.students

bench-cold-start: setup  ## A small job's stages, a fresh process for each, against ours; seconds from POST to the first step
	$(BIN)/python -m benchmarks.cold_start

bench-profile-stages: setup  ## Where the time of a job goes, stage by stage
	$(BIN)/python -m benchmarks.profile_stages

bench-photos: setup  ## The paper's table on real photos of four domains (DATA: Tiny ImageNet parquet); hours on two cores
	$(BIN)/python -m benchmarks.photos --data $(DATA)

starter: setup  ## Train the starter weights from DATA (Tiny ImageNet parquet); hours on two cores
	$(BIN)/python -m starter all --data $(DATA)

docs: setup  ## Write the generated pages of docs/
	$(BIN)/python -m docs.generate

clean:  ## Remove what was built (not the environment)
	rm -rf build/demo build/bench
