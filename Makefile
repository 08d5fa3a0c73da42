# README's two commands are `make demo` and `make test`; `make check` is for every edit. All of them work in a fresh clone.

.PHONY: demo check deny advisories test collection fleet model field tools lint build static deb bench fuzz clean

CARGO ?= cargo
# Where cargo builds: `target`, or what CARGO_TARGET_DIR or cargo's configuration says.
TARGET = $(shell $(CARGO) metadata --format-version 1 --no-deps --offline | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
MIF = $(TARGET)/release/mif

demo: ## Build, and take a small disk into MIF and back before your eyes. Needs a Rust toolchain only.
	@echo "Building mif, not optimised: the first time takes two minutes on two cores."
	@$(CARGO) build --profile demo --locked -p mif --no-default-features --features cli
	@fixtures/demo $(TARGET)/demo/mif

check: lint ## For every edit: format, lints, docs, and all tests that need no outside tool.
	$(CARGO) build --locked --workspace --all-targets
	MIF_TESTS_TOOLS=none tests/run --locked --workspace --no-fail-fast
	@$(MAKE) --no-print-directory deny

deny: ## Licenses, sources and bans of the crates that we depend on, by deny.toml. Needs cargo-deny; asks no advisory database.
	@if $(CARGO) deny --version > /dev/null 2>&1; then \
		$(CARGO) deny --locked check --hide-inclusion-graph bans licenses sources; \
	else echo "deny.toml was not checked: cargo-deny is not installed (cargo install cargo-deny --locked)"; fi

advisories: ## The same for security advisories. Fetches their database, so it needs the net.
	$(CARGO) deny --locked check advisories

# A missing tool is an error if this is `required`; if it is `optional`, the tests that need it are skipped and counted.
export MIF_TESTS_TOOLS ?= optional
# Tools that would sync all filesystems of the machine do not: tests/install-tools makes this directory.
export PATH := $(or $(MIF_CACHE),$(CURDIR)/fixtures/cache)/no-sync:$(PATH)
export MIF_QEMU_SAMPLES ?= $(CURDIR)/fixtures/cache/qemu-samples

# Tests also wait: for mounts, downloads, and disks that boot.
export RUST_TEST_THREADS ?= $(shell echo $$(($$(nproc) + 1)))

# The builds of `make check`: fully optimised, the tests save a twentieth of their time, and building takes twice as long.
# All targets are built in one go: the features of dependencies are then those that the tests need, and nothing is built twice.
test: tools lint ## Everything: tools, lints, unit tests, round trips, oracles, boots.
	$(CARGO) build --locked --workspace --all-targets
	tests/run --locked --workspace --no-fail-fast

collection: tools ## What takes long and needs real Debian disks: six of them from end to end, and more boots. Half an hour.
	$(CARGO) build --locked --workspace --all-targets
	tests/run --locked --workspace -- --ignored --nocapture collection

fleet: tools ## Many importers on one store, some of them killed, and the programs of docs/fleet.md in Ray and Spark. Needs Java.
	$(CARGO) build --locked --workspace --all-targets
	tests/run --locked --workspace -- --ignored --nocapture fleet::

MODEL_SECONDS ?= 3600

model: ## The store against a model of it, with failures, deaths and rot, for MODEL_SECONDS. Half a minute of it is in `make check`.
	MIF_MODEL_SECONDS=$(MODEL_SECONDS) $(CARGO) test --release --locked --workspace --test it -- --nocapture model::

FIELD_CASES ?= ../shared/cases
FIELD_SKIP ?=

field: build ## Faults from the field, a script for each, in a directory beside this one (or FIELD_CASES).
	@tests/field $(MIF) $(FIELD_CASES) '$(FIELD_SKIP)'

tools: ## Install what the tests need, where that is allowed; name what is missing where it is not.
	@tests/install-tools

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --document-private-items

build:
	$(CARGO) build --release --locked -p mif

STATIC = $(shell uname -m)-unknown-linux-musl

static: ## One file without libraries, for any Linux of this architecture. Needs the Rust target and musl-gcc.
	@test -d "$$(rustc --print target-libdir --target $(STATIC))" || \
		{ echo "the Rust target is missing: rustup target add $(STATIC)"; exit 1; }
	@command -v musl-gcc > /dev/null || { echo "musl-gcc is missing: apt-get install musl-tools"; exit 1; }
	$(CARGO) build --release --locked -p mif --target $(STATIC)
	@! readelf -d $(TARGET)/$(STATIC)/release/mif | grep NEEDED || { echo "the program is not static"; exit 1; }
	@ls -sh $(TARGET)/$(STATIC)/release/mif

deb: build ## A Debian package of the program, completions, man pages and docs. Needs dpkg-dev.
	@mkdir -p $(TARGET)/debian
	@packaging/deb $(MIF) $(TARGET)/debian

bench: tools ## Against qemu-img, borg, casync, restic and DuckDB.
	$(CARGO) build --release --locked --workspace --bins
	@tests/bench $(MIF)
	@tests/bench-files $(MIF)
	@tests/bench-library $(MIF)

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= wrapper container partition ext4 fat xfs btrfs ntfs hive manifest layout pack ext4_view qcow2_imago

fuzz: build ## Each fuzz target for FUZZ_SECONDS. Needs a nightly toolchain and cargo-fuzz; nothing else does.
	@cargo fuzz --version > /dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked"; exit 1; }
	fuzz/make-seeds $(MIF)
	cd fuzz && for target in $(FUZZ_TARGETS); do \
		cargo +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) \
			-max_len=8192 -rss_limit_mb=512 -timeout=10 || exit 1; \
	done

clean:
	$(CARGO) clean
