# edgeprune: `make help` lists what can be done.
#
#   make demo                                        no data needed
#   make openvino-x86 MODEL=best.pt DATA=data.yaml   a target is a file targets/NAME.yaml
#
# Everything sets itself up in .venv; PYTHON=python3.12 chooses another interpreter for that.

PYTHON  ?= python3
OUT     ?= build
JOBS    ?= 2
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
TARGETS := $(patsubst targets/%.yaml,%,$(wildcard targets/*.yaml))

# Ultralytics installs packages and calls home at run time unless told not to.
export YOLO_AUTOINSTALL := false
export YOLO_OFFLINE := true
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help setup targets demo sweep arena fleet-demo compare check lint types layers test test-gpu test-pi zoo bench-aa bench-fleet bench-forms bench-int8 bench-ptq bench-schedules slow schema clean $(TARGETS)

help: ## this text
	@echo "make TARGET MODEL=best.pt DATA=data.yaml [RECIPE=recipe.yaml] [CALIBRATION=name] [DEVICE=ssh://user@host] [OUT=build]"
	@echo "  TARGET is one of: $(TARGETS)"
	@echo
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12 | sed 's/^/  make /'

$(READY): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (6.5 GB with PyTorch; a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[build,compare,onnxruntime,openvino,camera,ssh,fleet,hsm,agent,search,tensorrt-rtx,dev]'
	@touch $@

setup: $(READY) ## install everything into .venv

$(TARGETS): $(READY)
	@test -n "$(MODEL)" || { echo "make $@: MODEL is missing. Say: make $@ MODEL=best.pt DATA=data.yaml" >&2; exit 2; }
	@test -n "$(DATA)" || { echo "make $@: DATA is missing. Say: make $@ MODEL=$(MODEL) DATA=data.yaml" >&2; exit 2; }
	@$(BIN)/edgeprune build $@ --model "$(MODEL)" --data "$(DATA)" --out "$(OUT)" $(if $(RECIPE),--recipe "$(RECIPE)") \
		$(if $(CALIBRATION),--calibration "$(CALIBRATION)") $(if $(DEVICE),--device "$(DEVICE)")

targets: $(READY) ## list the targets
	@$(BIN)/edgeprune targets

sweep: $(READY) ## the curve of mAP over latency for several goals (TARGET, MODEL, DATA, GOALS="1.5,2,3,4"; KIND, REFINE)
	@test -n "$(TARGET)" || { echo "make sweep: TARGET is missing; one of: $(TARGETS)" >&2; exit 2; }
	@test -n "$(MODEL)" || { echo "make sweep: MODEL is missing. Say: MODEL=best.pt" >&2; exit 2; }
	@test -n "$(DATA)" || { echo "make sweep: DATA is missing. Say: DATA=data.yaml" >&2; exit 2; }
	@test -n "$(GOALS)" || { echo "make sweep: GOALS is missing. Say: GOALS=1.5,2,3,4" >&2; exit 2; }
	@$(BIN)/edgeprune sweep "$(TARGET)" --model "$(MODEL)" --data "$(DATA)" --goals "$(GOALS)" --out "$(OUT)" \
		$(if $(KIND),--kind "$(KIND)") $(if $(REFINE),--refine "$(REFINE)") $(if $(RECIPE),--recipe "$(RECIPE)") \
		$(if $(CALIBRATION),--calibration "$(CALIBRATION)") $(if $(DEVICE),--device "$(DEVICE)")

arena: $(READY) ## every pruning method at one budget, raced (TARGET, MODEL, DATA, BUDGET=2x, EPOCHS; METHODS, SEEDS, STORAGE)
	@test -n "$(TARGET)" || { echo "make arena: TARGET is missing; one of: $(TARGETS)" >&2; exit 2; }
	@test -n "$(MODEL)" || { echo "make arena: MODEL is missing. Say: MODEL=best.pt" >&2; exit 2; }
	@test -n "$(DATA)" || { echo "make arena: DATA is missing. Say: DATA=data.yaml" >&2; exit 2; }
	@test -n "$(BUDGET)" || { echo "make arena: BUDGET is missing. Say: BUDGET=2x" >&2; exit 2; }
	@test -n "$(EPOCHS)" || { echo "make arena: EPOCHS is missing. Say: EPOCHS=30" >&2; exit 2; }
	@$(BIN)/edgeprune arena "$(TARGET)" --model "$(MODEL)" --data "$(DATA)" --budget "$(BUDGET)" --epochs "$(EPOCHS)" \
		--methods "$(or $(METHODS),all)" --seeds "$(or $(SEEDS),1)" --out "$(OUT)" \
		$(if $(STORAGE),--storage "$(STORAGE)") $(if $(RECIPE),--recipe "$(RECIPE)") \
		$(if $(CALIBRATION),--calibration "$(CALIBRATION)") $(if $(DEVICE),--device "$(DEVICE)") $(OPTIONS)

demo: $(READY) ## the main job on a synthetic data set, nothing downloaded (under 10 minutes on 2 cores)
	@$(BIN)/edgeprune demo --out "$(OUT)/demo"

fleet-demo: $(READY) ## twenty devices on this machine: a good release, a slow one, one that crashes (nginx, mosquitto; 3 minutes)
	@$(BIN)/python -m tests.fleet.demo $(OPTIONS)

compare: $(READY) ## a build beside everybody else's exports of its parent (TARGET, MODEL, DATA; BUILD=its folder)
	@test -n "$(TARGET)" || { echo "make compare: TARGET is missing, one of: $(TARGETS)" >&2; exit 2; }
	@test -n "$(MODEL)" || { echo "make compare: MODEL is missing: the build's parent. Say MODEL=best.pt" >&2; exit 2; }
	@test -n "$(DATA)" || { echo "make compare: DATA is missing. Say DATA=data.yaml" >&2; exit 2; }
	@$(BIN)/edgeprune compare "$(TARGET)" --model "$(MODEL)" --data "$(DATA)" --out "$(OUT)" \
		$(if $(RECIPE),--recipe "$(RECIPE)") $(if $(CALIBRATION),--calibration "$(CALIBRATION)") \
		$(if $(BUILD),--build "$(BUILD)") $(if $(DEVICE),--device "$(DEVICE)") $(OPTIONS)

check: lint types layers test ## what CI runs

lint: $(READY) ## ruff
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	@$(BIN)/mypy

layers: $(READY) ## an import points down only
	@$(BIN)/lint-imports

test: $(READY) ## the tests (those on real data where ../shared is), in JOBS processes, a test file in one
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow and not gpu and not device and not pi"

zoo: $(READY) ## every model of Ultralytics: channel groups, locked MACs, cut against muted (ZOO="yolov8n yolo11n" for some)
	@$(BIN)/python -m tests.zoo $(ZOO)

bench-aa: $(READY) ## an engine raced against itself, 200 times: how often a difference is seen where there is none (RACES, MODEL)
	@$(BIN)/python -m tests.aa $(if $(RACES),--races $(RACES)) $(if $(MODEL),--model "$(MODEL)") $(OPTIONS)

bench-int8: $(READY) ## INT8 against FP32 on both runtimes, SiLU and ReLU, whole and cut (MODEL, DATA, CALIBRATION)
	@$(BIN)/python -m tests.int8 speed --model "$(MODEL)" --data "$(DATA)" --calibration "$(CALIBRATION)" $(OPTIONS)

bench-forms: $(READY) ## pixels in or floats, boxes decoded inside or outside: all forms in one race (MODEL, DATA, CALIBRATION)
	@$(BIN)/python -m tests.forms --model "$(MODEL)" --data "$(DATA)" --calibration "$(CALIBRATION)" $(OPTIONS)

bench-ptq: $(READY) ## what quantization alone costs: mAP in torch and on both runtimes (MODEL, DATA, CALIBRATION)
	@$(BIN)/python -m tests.int8 ptq --model "$(MODEL)" --data "$(DATA)" --calibration "$(CALIBRATION)" $(OPTIONS)

bench-schedules: $(READY) ## qap, prune-then-qat and ptq, three seeds, equal epochs (MODEL, DATA, CALIBRATION; hours)
	@$(BIN)/python -m tests.schedules --model "$(MODEL)" --data "$(DATA)" --calibration "$(CALIBRATION)" \
		--out "$(OUT)/schedules" $(OPTIONS)

bench-fleet: $(READY) ## a tick of a million devices (PostgreSQL), updates of a thousand real agents (nginx); half an hour
	@$(BIN)/python -m tests.fleet.scale
	@$(BIN)/python -m tests.fleet.thousand $(OPTIONS)

test-gpu: $(READY) ## the tests that need an NVIDIA GPU and TensorRT
	@$(BIN)/python -m pytest -m gpu

test-pi: $(READY) ## the tests on an emulated Raspberry Pi 4 and 5 (root, Linux 6.7, mmdebstrap; minutes)
	@$(BIN)/python -m pytest -m pi tests/pi

slow: $(READY) ## the tests that take minutes each
	@$(BIN)/python -m pytest -m slow

schema: $(READY) ## JSON Schemas for editors, into $(OUT)/schema
	@$(BIN)/edgeprune schema --out "$(OUT)/schema"

clean: ## remove what was built (not .venv)
	@rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info

# A name that is neither a rule nor a target: say what there is instead of make's own riddle.
%:
	@echo "make: there is no target '$@'. Targets: $(TARGETS). See also: make help" >&2; exit 2
