PYTHON ?= $(shell command -v python || command -v python3)
PACKAGES = runtime robots models training export kernels

.PHONY: dev links check lint types contracts test soak mutation bench precision cubins gpu gpu-plan gpu-tests prove-tensorrt clean

dev:            ## install everything into the active venv
	$(PYTHON) -m pip install -e ".[dev]"
	$(MAKE) links

links:          ## the dvgwm namespace as links, for mypy and for machines where nothing can be installed
	@$(PYTHON) tests/make_links.py build/links $(PACKAGES)

check: lint types contracts test  ## what CI runs

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types: links
	$(PYTHON) -m mypy $(foreach p,$(PACKAGES),-p dvgwm.$(p))

contracts: links
	PYTHONPATH=build/links lint-imports

test:           ## the tests for two cores without a GPU: all of them, also what `python -m pytest` leaves out for its time
	$(PYTHON) -m pytest tests

soak:           ## the fuzzes of tests/soak, motion and drivers under signals, faults and load, fifty layouts live: all that they draw (SEED=1 for another)
	$(PYTHON) -m pytest tests/soak tests/robots/test_process_signals.py \
	  tests/robots/test_process_command.py tests/robots/test_process_ticks.py tests/robots/test_driver_faults.py \
	  tests/robots/test_process_terminal.py tests/robots/test_talking.py tests/robots/test_live_success.py -n 0 -s -p no:cacheprovider --soak $(or $(SEED),$$(date +%Y%m%d))

mutation:       ## change the gate, one expression at a time, and see whether its tests notice (wants mutmut)
	$(PYTHON) tests/robots/mutation.py

bench:          ## benchmarks; results of this machine are printed as a table
	$(PYTHON) -m pytest benchmarks/ --benchmark-only

precision:      ## what each precision does to the trained a1_tiny, into docs/precision.md; goes on where it was (an hour)
	$(PYTHON) benchmarks/precision

cubins: links   ## every kernel for every GPU, ahead of time, without one (ARCH="90" for some)
	PYTHONPATH=build/links $(PYTHON) -m dvgwm.kernels.aot --out runtime/cubins $(if $(ARCH),--arch $(ARCH))

gpu:            ## what this GPU makes of the full-size system, installed or not: a table, a plot, the setting to use; goes on where it was
	$(PYTHON) -m benchmarks.gpu --deadline $(or $(DEADLINE),3600) $(if $(OUT),--out $(OUT)) $(if $(ONLY),--only $(ONLY))

gpu-plan:       ## the same on a machine that is lent in pieces: which calls to make, and what to bring
	$(PYTHON) -m benchmarks.gpu --plan

gpu-tests: links ## the tests that want a GPU, installed or not
	PYTHONPATH=build/links $(PYTHON) -m pytest -m gpu -p no:cacheprovider -W default

prove-tensorrt: ## on a robot PC: compile a bundle with TensorRT, hold it against the CPU, time it (BUNDLE=engines/dvgwm_5b, BACKEND=tensorrt_rtx); goes on where it was
	$(PYTHON) benchmarks/robot_pc $(if $(BUNDLE),--bundle $(BUNDLE)) $(if $(BACKEND),--backend $(BACKEND))

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache
