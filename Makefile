# The two commands of README: `make demo` and `make test`. All of them work in a fresh clone.

.PHONY: demo test field collection tools lint build bench fuzz clean

CARGO ?= cargo

demo: ## Build, and take a small disk into MIF and back before your eyes. Needs a Rust toolchain only.
	@$(CARGO) build --release --locked -p mif
	@fixtures/demo target/release/mif

# Tools that would sync all filesystems of the machine do not: tests/install-tools makes this folder.
export PATH := $(or $(MIF_CACHE),$(CURDIR)/fixtures/cache)/no-sync:$(PATH)
export MIF_QEMU_SAMPLES ?= $(CURDIR)/fixtures/cache/qemu-samples

test: tools lint ## Everything: tools, lints, unit tests, round trips, oracles, boots.
	$(CARGO) build --release --locked --workspace
	$(CARGO) test --release --locked --workspace --no-fail-fast

collection: tools ## Six real Debian disks from end to end: kept, verified, searched, compared, updated, booted. Half an hour.
	$(CARGO) build --release --locked --workspace
	$(CARGO) test --release --locked --workspace --test collection -- --include-ignored --nocapture

FIELD_CASES ?= ../shared/cases
FIELD_SKIP ?=

field: build ## Faults from the field, a script for each, in a directory beside this one (or FIELD_CASES).
	@tests/field target/release/mif $(FIELD_CASES) '$(FIELD_SKIP)'

tools: ## Install what the tests need, where that is allowed; name what is missing where it is not.
	@tests/install-tools

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps --document-private-items

build:
	$(CARGO) build --release --locked -p mif

bench: tools ## Against qemu-img, borg, casync and restic, in one run.
	$(CARGO) build --release --locked --workspace --bins
	@tests/bench target/release/mif
	@tests/bench-files target/release/mif

FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= container partition ext4 fat manifest layout pack

fuzz: build ## Each fuzz target for FUZZ_SECONDS. Needs a nightly toolchain and cargo-fuzz; nothing else does.
	@cargo fuzz --version > /dev/null || { echo "cargo-fuzz is missing: cargo install cargo-fuzz --locked"; exit 1; }
	fuzz/make-seeds target/release/mif
	cd fuzz && for target in $(FUZZ_TARGETS); do \
		cargo +nightly fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) \
			-max_len=8192 -rss_limit_mb=512 -timeout=10 || exit 1; \
	done

clean:
	$(CARGO) clean
