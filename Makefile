# Every target does the set-up that it needs, and is quick the second time. Needs make and Python 3.11.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
# Stamps lie in the environment: who removes it sets up again.
PACKAGES_DONE := $(VENV)/.packages-done
TOOLS_DONE := $(VENV)/.tools-done

# What the tests and benchmarks use besides Python packages: clients, arbiters, peers to measure against, load,
# namespaces, a model checker.
TOOLS := redis-cli:redis-tools redis-server:redis-server qemu-system-riscv64:qemu-system-misc \
         stress-ng:stress-ng ip:iproute2 iptables:iptables etcd:etcd-server etcdctl:etcd-client redis-sentinel:redis-sentinel \
         spin:spin gcc:gcc faketime:faketime mke2fs:e2fsprogs \
         /usr/lib/x86_64-linux-gnu/libslirp.so.0:libslirp0 \
         /usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.elf:opensbi

SEEDS ?= 0:10000
PROGRAMS ?= 10000
INPUTS ?= 10000
SIZE ?= small
MODEL ?= full
PROCESS_TESTS := $(addprefix tests/,arbiter bench campaign demo host linux namespaces test_readme_two_hosts.py)
KILLS ?= 20

.PHONY: setup demo test test-processes test-rest lint bench sim fuzz differential campaign linux model mutants clean

setup: $(PACKAGES_DONE) $(TOOLS_DONE)

$(PACKAGES_DONE): pyproject.toml .ci/make-venv
	@sh .ci/make-venv "$(PYTHON)" $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,bench,dev]'
	@touch $@

$(TOOLS_DONE): .ci/install-tools $(PACKAGES_DONE)
	@sh .ci/install-tools $(TOOLS)
	@touch $@

demo: $(PACKAGES_DONE)
	$(BIN)/ftvm demo

# Two at a time: what computes beside what starts nodes and waits for them.
test: setup
	$(MAKE) --no-print-directory -j2 test-processes test-rest

test-processes: setup
	$(BIN)/python -m pytest $(PROCESS_TESTS)

test-rest: setup
	$(BIN)/python -m pytest tests $(addprefix --ignore=,$(PROCESS_TESTS))

lint: $(PACKAGES_DONE)
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m bench.throughput
	$(BIN)/python -m bench.failover

# The replication core under a seeded simulation of network, clock and crashes: make sim SEEDS=0:500
sim: $(PACKAGES_DONE)
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

# Bytes that nobody of ours made, for everything that reads bytes: make fuzz INPUTS=100000
fuzz: $(PACKAGES_DONE)
	$(BIN)/python -m tests.fuzz --size $(INPUTS)

# Random programs and floating-point operations against other interpreters: make differential PROGRAMS=500
differential: $(PACKAGES_DONE)
	$(BIN)/python -m tests.differential --programs $(PROGRAMS)
	$(BIN)/python -m tests.differential --level float --programs $(PROGRAMS)

# Real processes on hosts that are namespaces, faults of every kind, as root: make campaign SIZE=full
campaign: setup
	$(BIN)/python -m tests.campaign --size $(SIZE)

# Debian's kernel at work in lockstep, and its primary killed again and again: make linux KILLS=100
linux: setup
	$(BIN)/python -m tests.linux --kills $(KILLS)

# The protocol as a model under SPIN, with the faults that it must find out: make model MODEL=small
model: setup
	$(BIN)/python -m tests.model --size $(MODEL)

# Faults planted in the code, each of which its tests must notice
mutants: setup
	$(BIN)/python -m tests.mutants

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
