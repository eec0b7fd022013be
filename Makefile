# The commands of a checkout. `make test` and `make demo` install by themselves what they need and this
# machine lacks (.ci/install-tools says what and how).

CARGO ?= cargo
PREFIX ?= /usr
DESTDIR ?=
# What `make demo` mounts; a generated tree of some 300 MB if empty.
FOLDER ?=
# How long `make fuzz` gives each of its targets.
FUZZ_SECONDS ?= 60
# What runs the fuzz targets.
CARGO_FUZZ = 0.13.1

export FOLDER

.PHONY: all build test fuzz demo install tools lint

all: build

tools:
	@.ci/install-tools

build:
	$(CARGO) build --release --workspace --bins

lint: tools
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps --quiet
	@echo '== the wire format and the multiplexer without std: they do no I/O and read no clock'
	$(CARGO) build -p transport --lib --no-default-features

test: tools lint
	@echo '== the programs, which the tests of mounts start, and the suites that they run'
	$(CARGO) build --workspace --bins
	@CARGO='$(CARGO)' .ci/install-suites
	$(CARGO) test --workspace

# Fuzz targets, one after the other; their lints here, as libFuzzer's C++ part is compiled for them.
fuzz: tools
	@echo '== cargo-fuzz $(CARGO_FUZZ), into target/tools'
	$(CARGO) install --quiet --locked --root target/tools cargo-fuzz@$(CARGO_FUZZ)
	$(CARGO) fmt --all --check --manifest-path transport/fuzz/Cargo.toml
	$(CARGO) fmt --all --check --manifest-path server/fuzz/Cargo.toml
	$(CARGO) clippy --manifest-path transport/fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	$(CARGO) clippy --manifest-path server/fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	@.ci/fuzz $(FUZZ_SECONDS)

demo: tools
	@client/demo.sh

# For the template of the qubes; what dom0 needs comes in a package of its own.
install: build
	install -D -m 0755 target/release/qvm-mount-folder '$(DESTDIR)$(PREFIX)/bin/qvm-mount-folder'
	install -D -m 0755 target/release/qvm-folder-server '$(DESTDIR)$(PREFIX)/bin/qvm-folder-server'
	install -D -m 0755 policy/files/sharedfolders.Mount '$(DESTDIR)/etc/qubes-rpc/sharedfolders.Mount'
	install -D -m 0755 policy/files/sharedfolders.MountReadOnly '$(DESTDIR)/etc/qubes-rpc/sharedfolders.MountReadOnly'
