# The commands of a checkout. `make test` and `make demo` install by themselves what they need and this
# machine lacks (.ci/install-tools says what and how).

CARGO ?= cargo
PREFIX ?= /usr
# Where mount(8) looks for its helpers, whatever PREFIX is.
SBINDIR ?= /usr/sbin
DESTDIR ?=
# Which build is installed and packaged; the tests package the one that they have made.
PROFILE ?= release
# Where packages come to lie.
PACKAGES = target/packages
# What `make demo` mounts; a generated tree of some 300 MB if empty.
FOLDER ?=
# How long `make fuzz` gives each of its targets.
FUZZ_SECONDS ?= 60
# What runs the fuzz targets.
CARGO_FUZZ = 0.13.1

export FOLDER

.PHONY: all build lint test test-conformance test-packages fuzz bench readme-figures demo
.PHONY: install install-dom0 man trees rpm deb tools

all: build

tools:
	@.ci/install-tools

build:
	$(CARGO) build $(if $(filter release,$(PROFILE)),--release) --workspace --bins

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
	$(MAKE) test-packages PROFILE=debug

# Fuzz targets, one after the other; their lints here, as libFuzzer's C++ part is compiled for them.
fuzz: tools
	@echo '== cargo-fuzz $(CARGO_FUZZ), into target/tools'
	$(CARGO) install --quiet --locked --root target/tools cargo-fuzz@$(CARGO_FUZZ)
	$(CARGO) fmt --all --check --manifest-path transport/fuzz/Cargo.toml
	$(CARGO) fmt --all --check --manifest-path server/fuzz/Cargo.toml
	$(CARGO) clippy --manifest-path transport/fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	$(CARGO) clippy --manifest-path server/fuzz/Cargo.toml --target-dir target/fuzz -- -D warnings
	@.ci/fuzz $(FUZZ_SECONDS)

# The long form of what `make test` runs a short form of.
test-conformance: tools
	$(CARGO) build --workspace --bins
	@CARGO='$(CARGO)' .ci/install-suites
	$(CARGO) test -p client --test v9fs --no-run
	FSX_OPERATIONS=100000 KERNEL_PATIENCE=4 $(CARGO) test -p client --test kernel -- conformance::
	COHERENCE=strict KERNEL_PATIENCE=4 $(CARGO) test -p client --test kernel -- conformance::
	COHERENCE=strict $(CARGO) test -p client --test conformance

demo: tools
	@client/demo.sh

# The design's figures beside what they are compared with, in some minutes: target/bench/figures.md and .json.
# `cargo bench -p benches --bench NAME`, after `make build`, measures one group in full.
bench: tools build
	target/release/figures run

# Puts the table of the last `make bench` into the README.
readme-figures:
	target/release/figures readme

# The man pages and completions, made from the programs' own command lines.
MANUAL = target/manual

man:
	$(CARGO) run $(if $(filter release,$(PROFILE)),--release) --quiet -p client --example manual -- $(MANUAL)

# For the template of the qubes; what dom0 needs comes in a package of its own.
install: build man
	install -D -m 0755 target/$(PROFILE)/qvm-mount-folder '$(DESTDIR)$(PREFIX)/bin/qvm-mount-folder'
	install -D -m 0755 target/$(PROFILE)/qvm-folder-server '$(DESTDIR)$(PREFIX)/bin/qvm-folder-server'
	install -d '$(DESTDIR)$(SBINDIR)'
	ln -sfr '$(DESTDIR)$(PREFIX)/bin/qvm-mount-folder' '$(DESTDIR)$(SBINDIR)/mount.qvm'
	install -D -m 0755 policy/files/sharedfolders.Mount '$(DESTDIR)/etc/qubes-rpc/sharedfolders.Mount'
	install -D -m 0755 policy/files/sharedfolders.MountReadOnly '$(DESTDIR)/etc/qubes-rpc/sharedfolders.MountReadOnly'
	install -D -m 0644 policy/files/exports.toml '$(DESTDIR)$(PREFIX)/share/doc/qubes-shared-folders/exports.toml'
	for page in $(MANUAL)/*.[158]; do \
	    install -D -m 0644 "$$page" '$(DESTDIR)$(PREFIX)/share/man/'"man$${page##*.}/$${page##*/}" || exit; \
	done
	for name in qvm-mount-folder qvm-folder-server; do \
	    install -D -m 0644 $(MANUAL)/$$name.bash '$(DESTDIR)$(PREFIX)/share/bash-completion/completions/'$$name && \
	    install -D -m 0644 $(MANUAL)/$$name.zsh '$(DESTDIR)$(PREFIX)/share/zsh/site-functions/'_$$name && \
	    install -D -m 0644 $(MANUAL)/$$name.fish '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/'$$name.fish || exit; \
	done

# For dom0. Its group qubes is given where it is there, as the package does it.
install-dom0:
	install -D -m 0664 policy/files/80-sharedfolders.policy '$(DESTDIR)/etc/qubes/policy.d/80-sharedfolders.policy'
	if [ -z '$(DESTDIR)' ] && getent group qubes >/dev/null; then chgrp qubes /etc/qubes/policy.d/80-sharedfolders.policy; fi

trees: tools
	rm -rf $(PACKAGES)/tree $(PACKAGES)/dom0
	$(MAKE) install DESTDIR='$(CURDIR)/$(PACKAGES)/tree' PREFIX=/usr
	$(MAKE) install-dom0 DESTDIR='$(CURDIR)/$(PACKAGES)/dom0'

# The packages of the template and of dom0, for Fedora's and Debian's templates; nothing is fetched for them
# but crates.
rpm: trees
	rm -f $(PACKAGES)/*.rpm
	policy/packaging/build rpm $(PACKAGES)/tree $(PACKAGES)/dom0 $(PACKAGES)
	@ls -l $(PACKAGES)/*.rpm

deb: trees
	rm -f $(PACKAGES)/*.deb
	policy/packaging/build deb $(PACKAGES)/tree $(PACKAGES)/dom0 $(PACKAGES)
	@ls -l $(PACKAGES)/*.deb

test-packages: rpm deb
	policy/packaging/test $(PACKAGES)/tree $(PACKAGES)
