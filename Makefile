# porin. `make` lists the targets; README.md begins with the two that matter, `demo` and `test`.

CARGO ?= cargo
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
# Every folder but the SDK is a cell.
CELLS := $(filter-out sdk,$(patsubst cells/%/Cargo.toml,%,$(wildcard cells/*/Cargo.toml)))
WASM := wasm32-unknown-unknown
FUZZ := payload senml mapping lines framing record config component staging dead trust desired_set
FOR := 60
# What is compiled for this machine, but for demo and benchmarks, is always chosen so: another choice of packages would choose other features of
# the crates that they share, and compile nearly all of them again.
PROGRAMS := --locked --workspace --bins --tests
# Where `make tools` puts what a machine may lack.
TOOLS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/porin/tools
export PATH := $(TOOLS)/bin:$(TOOLS)/python/bin:$(PATH)
SCRIPTS = $(shell git ls-files -z | xargs -0 awk 'FNR == 1 && /^\#!.*\/(ba)?sh/ { print FILENAME } { nextfile }')
# Under PORIN_REQUIRE=all, which .ci/run sets, a test that would skip itself fails.
SKIPPED := $(TARGET_DIR)/skipped-tests.txt
# Debian's architectures with the targets that they are for; boards that have an image.
ARM := aarch64-unknown-linux-musl armv7-unknown-linux-musleabihf
BOARD := rpi-3b
CUTS := 20
DIST := $(TARGET_DIR)/dist
DEMO := $(TARGET_DIR)/demo
# Completions and manual pages of the packages.
SHARE := $(TARGET_DIR)/share

.DEFAULT_GOAL := help
.PHONY: help compiler demo for-demo fresh test test-all test-later test-arm test-image test-board test-package cross reproducible deb image check audit programs cells wit bench bench-e2e instructions pictures reduction soak fuzz fuzz-one tools size fmt clean broker python list-skipped images packages run-image run-board run-package

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

demo: for-demo ## The main job on recorded data, with a broker of its own, in a minute after the build
	@$(DEMO)/porin demo --porind $(DEMO)/porind --cells $(TARGET_DIR)/cells

# A profile of its own: it builds in half the time, and what is slower than in a release does not show here.
for-demo: compiler
	@echo "1 of 3: building porin and its agent (some minutes the first time)" >&2
	@$(CARGO) build --locked --profile demo -p porin -p porind
	@echo "2 of 3: building the stock cells" >&2
	@sh cross/with.sh $(WASM) $(DEMO)/porin cell build $(CELLS:%=cells/%)
	@echo "3 of 3: running them" >&2

fresh: ## Run `make demo` and `make test` in a bare Debian with Rust and make, and keep the log (as root; needs debootstrap)
	@bash tests/fresh.sh $(TARGET_DIR)/fresh

test: cells broker python ## All tests but the slow ones; installs what they need
	@mkdir -p $(TARGET_DIR) && : > $(SKIPPED)
	@sh tests/run.sh
	$(CARGO) test --locked --workspace --no-fail-fast --doc
	@$(MAKE) -s list-skipped

test-all: test test-arm ## All tests

test-later: cells broker python ## The tests with the clock 400 days ahead
	@sh tests/run.sh --later

# The power cuts at every write of the disk take long under emulation: `make test-arm ARM_SKIP=` has them. qemu-user gives no memory back to the
# kernel and shows its own, so one test cannot be true there.
ARM_SKIP := --skip agent::tests::
ARM_TESTS := -p porin-core -p porin-cell -p porind --tests
test-arm: cells ## The tests of porin-core, porin-cell and porind for aarch64 and armv7, under emulation
	@sh cross/apt.sh qemu-user-static gcc-arm-linux-gnueabihf libc6-dev-armhf-cross gcc-aarch64-linux-gnu libc6-dev-arm64-cross
	@for target in $(ARM); do \
		sh cross/with.sh $$target sh -c '$(CARGO) test --locked $(ARM_TESTS) --target $$PORIN_TARGET -- --skip zeroes_that_are_given_back $(ARM_SKIP)' || exit 1; \
	done

# Each in a folder of its own, and both at once: the last step of each takes minutes on one core.
cross: ## Static porind for aarch64 and armv7 → target/dist, with SHA-256 sums
	@sh cross/apt.sh gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
	@for target in $(ARM); do sh cross/with.sh $$target true || exit 1; done
	@$(MAKE) -s -j2 $(ARM:%=cross-%)
	@cd $(DIST) && sha256sum porind-* > SHA256SUMS && ls -l porind-* && cat SHA256SUMS

cross-%:
	@CARGO="$(CARGO)" CARGO_TARGET_DIR=$(abspath $(TARGET_DIR))/cross/$* sh cross/build.sh $* $(DIST)

reproducible: cross ## Build both again elsewhere and compare every byte
	@sh cross/twice.sh $(DIST) $(ARM)

deb: cross cells ## Debian packages for arm64 and armhf → target/dist
	@$(TARGET_DIR)/debug/porin package-files $(SHARE)
	@for target in $(ARM); do \
		case $$target in aarch64-*) architecture=arm64 ;; *) architecture=armhf ;; esac; \
		sh cross/deb.sh $$architecture $(DIST)/porind-$$target $(TARGET_DIR)/cells $(SHARE) $(DIST) || exit 1; \
	done
	@ls -l $(DIST)/*.deb

image: cross cells ## The appliance image, BOARD=rpi-3b or rpi-4b → target/image
	@$(IMAGE_ENV) sh cross/image.sh $(BOARD) $(DIST) $(TARGET_DIR)/cells $(TARGET_DIR)/image

# Tests boot an image that is a year old: nothing may depend on the day on which it is made. Only the image: another time for
# the compiler would build everything anew.
YEAR_OLD = SOURCE_DATE_EPOCH=$$(($$(date +%s) - 31536000))
test-image: images run-image ## Boot the image in an emulated Pi 3B, update it, cut its power CUTS=20 times

test-board: images run-board ## Read chips on the I2C bus of an emulated Pi 3B, and edges of the lines of another board

test-package: packages run-package ## Install, upgrade under traffic and purge the armhf package in a Debian of that architecture

# What these need is made first, one after the other. Then the package may run beside the others (.ci/run).
images: broker
	@sh cross/apt.sh qemu-system-arm
	@sh cross/qemu.sh $(TARGET_DIR)/qemu
	@$(MAKE) -s image BOARD=rpi-4b IMAGE_ENV=$(YEAR_OLD)
	@$(MAKE) -s image BOARD=rpi-3b IMAGE_ENV=$(YEAR_OLD)

run-image:
	PORIN_CUTS=$(CUTS) $(CARGO) test --locked --workspace --test image -- --ignored --nocapture --test-threads 1

run-board:
	$(CARGO) test --locked --workspace --test board -- --ignored --nocapture --test-threads 1

packages: deb broker
	@sh cross/apt.sh qemu-user-static binfmt-support && update-binfmts --enable qemu-arm
	@PORIN_DEPENDENCIES=1 sh cross/debian.sh $(TARGET_DIR)/armhf armhf "bookworm main" dpkg passwd dash coreutils libc-bin sed diffutils
	@PORIN_REVISION=+1 sh cross/deb.sh armhf $(DIST)/porind-armv7-unknown-linux-musleabihf $(TARGET_DIR)/cells $(SHARE) $(DIST)
	@PORIN_REVISION=~older PORIN_STORE_FORMAT=1 sh cross/deb.sh armhf $(DIST)/porind-armv7-unknown-linux-musleabihf $(TARGET_DIR)/cells $(SHARE) $(DIST)

run-package:
	$(CARGO) test --locked --workspace --test package -- --ignored --nocapture

# Runs what follows if a tool is there. Without it the check is skipped in words, and fails under PORIN_REQUIRE=all.
if_there = if ! command -v $(1) >/dev/null; then echo "skipped: $(1) is not installed: make tools" >&2; [ "$(PORIN_REQUIRE)" != all ]; else

tools: ## Install what `make check` and `make fuzz` use besides Rust, into ~/.cache/porin
	@sh cross/tools.sh $(TOOLS)

check: ## Format, lints, dependencies, documentation
	sh tests/docs.sh
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@$(call if_there,cargo-deny) $(CARGO) deny --locked check bans licenses sources; fi
	@$(call if_there,shellcheck) shellcheck --severity warning $(SCRIPTS); fi
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --lib --bins --examples -q # examples: with the features of the tests

audit: ## Known vulnerabilities in dependencies (needs cargo-deny and its database)
	$(CARGO) deny --locked check advisories

# Rust links with a C compiler, and ring has C in it.
compiler:
	@command -v cc >/dev/null || sh cross/apt.sh gcc libc6-dev

programs: compiler
	@$(CARGO) build $(PROGRAMS)

cells: programs ## Build the stock cells into target/cells
	@sh cross/with.sh $(WASM) $(TARGET_DIR)/debug/porin cell build $(CELLS:%=cells/%)

wit: ## Make again what is derived from wit/
	PORIN_WRITE=1 $(CARGO) test --locked --workspace --test derived_from_wit

bench: cells broker ## Time per packet, as ratios to native code; what the disk has to bear; what asking sensors costs (some minutes)
	$(CARGO) bench --locked -p porind
	$(CARGO) bench --locked -p porin-e2e --bench disk
	@$(CARGO) build --locked --release -p porind
	PORIN_PROFILE=release $(CARGO) bench --locked -p porin-e2e --bench sensors

instructions: cells ## Machine instructions for each packet on aarch64 and armv7, a cell and native code, under emulation
	@sh tests/instructions.sh

bench-e2e: cells broker ## MQTT → deadband → MQTT through mosquitto, against the smallest native program (some minutes)
	@$(CARGO) build --locked --release -p porin -p porind
	@sh cross/with.sh $(WASM) $(TARGET_DIR)/release/porin cell build tests/cells/json-deadband
	@$(TARGET_DIR)/release/porin bench-e2e --porind $(TARGET_DIR)/release/porind --cells $(TARGET_DIR)/cells

pictures: for-demo ## Draw the README's plot again from recorded data → docs/pictures
	@$(DEMO)/porin demo --porind $(DEMO)/porind --cells $(TARGET_DIR)/cells --picture docs/pictures/forwarded.svg >$(TARGET_DIR)/pictures.log

reduction: cells ## Bytes for each reading, by data set, encoding, batch and cell → docs/reduction.md (some minutes)
	@$(CARGO) build --locked --release -p porin -p porind
	@data=$${PORIN_DATA:-../shared/data}; test -d "$$data" || { data=tests/data; echo "only the sets that the project carries" >&2; }; \
		$(TARGET_DIR)/release/porin reduction --porind $(TARGET_DIR)/release/porind --cells $(TARGET_DIR)/cells --data "$$data" > $(TARGET_DIR)/reduction.md \
		&& cp $(TARGET_DIR)/reduction.md docs/reduction.md

soak: cells broker python ## Ten million packets through each cell; 100,000 components; drain backlogs of 5 million packets and of 1 GB; 200 troubles of 20 sources (some minutes)
	PORIN_SOAK=10000000 $(CARGO) test --locked -p porin-cell --test soak -- --nocapture
	PORIN_STAGED=100000 $(CARGO) test --locked -p porin-fuzz --test staging -- --nocapture
	PORIN_BACKLOG=5000000 $(CARGO) test --locked -p porin-e2e --test backlog -- --nocapture
	PORIN_BACKLOG=16000000 $(CARGO) test --locked -p porin-e2e --test backlog -- --nocapture
	PORIN_STEPS=200 PORIN_SEED=$$$$ $(CARGO) test --locked -p porin-e2e --test chaos -- --nocapture

fuzz: ## Fuzz the readers of outside bytes, FOR=60 seconds each (`make tools`, and a C++ compiler)
	@for target in $(FUZZ); do \
		echo "fuzzing $$target for $(FOR) s" >&2; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir tests/fuzz/fuzz $$target -- -max_total_time=$(FOR) -max_len=65536 || exit 1; done

# Another one every two hours: CI has them all within a day.
fuzz-one: ## Fuzz one of the readers, in rotation, FOR=60 seconds
	@$(MAKE) -s fuzz FUZZ=$(word $(shell echo $$(($$(date +%s) / 7200 % $(words $(FUZZ)) + 1))),$(FUZZ))

size: cells deb ## Size of porind, packages, image, dependencies; memory here and in the emulated Pi
	@$(MAKE) -s image BOARD=rpi-3b IMAGE_ENV=$(YEAR_OLD)
	@sh tests/size.sh
	@sh cross/apt.sh qemu-system-arm mosquitto mosquitto-clients
	@$(CARGO) test -q --locked --workspace --test image -- --ignored --nocapture small >$(TARGET_DIR)/size.log 2>&1 || { cat $(TARGET_DIR)/size.log >&2; exit 1; }
	@grep 'emulated Pi' $(TARGET_DIR)/size.log

fmt: ## Format the code
	$(CARGO) fmt --all

clean: ## Remove what was built
	$(CARGO) clean

broker:
	@sh cross/apt.sh mosquitto mosquitto-clients nats-server faketime libnss-wrapper dosfstools mtools fdisk netplan.io systemd

# An independent reader of SenML, and cloud-init's own schema. Without pip or network the tests that want them say that they are skipped.
python:
	@python3 -m pip --version >/dev/null 2>&1 || sh cross/apt.sh python3-pip || echo "no pip" >&2
	@sh cross/debian.sh $(TARGET_DIR)/cloud-init amd64 "trixie main" cloud-init || echo "no cloud-init from Debian" >&2
	@test -d $(TARGET_DIR)/python/pymodbus || python3 -m pip install -q --upgrade --no-deps --disable-pip-version-check --root-user-action=ignore \
		--target $(TARGET_DIR)/python senml==0.1.0 pymodbus==3.11.3 pyserial==3.5 attrs==25.4.0 cbor2==5.7.1 PyYAML==6.0.3 \
		jsonschema==4.25.1 jsonschema-specifications==2025.9.1 referencing==0.37.0 rpds-py==0.28.0 typing-extensions==4.15.0 \
		|| echo "no SenML library, no jsonschema and no pymodbus from PyPI" >&2

list-skipped:
	@if [ -s $(SKIPPED) ]; then echo "skipped tests:"; sort -u $(SKIPPED) | sed 's/^/  /'; else echo "no test was skipped"; fi
