GO ?= go
# A version that builds with the Go of go.mod.
GOLANGCI_LINT ?= github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

ACTIONLINT ?= github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
NFPM ?= github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.1

.PHONY: help build run test browser docs long race fake fuzz microbench lint examples cross package bench bench-counted bench-check clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.* ## /  make \1\t/p' Makefile | expand -t 21

# What xcaddy builds with, and it sets CGO_ENABLED=0.
XCADDY_FLAGS := -tags nobadger,nomysql,nopgx -trimpath -ldflags '-w -s'

build: ## build bin/caddy, Caddy with this module
	@[ -e bin/caddy ] || echo 'The first build downloads up to 300 MB and takes some minutes.'
	CGO_ENABLED=0 $(GO) build -o bin/caddy $(XCADDY_FLAGS) ./cmd/caddy

# What Caddy stores stays in bin/, apart from any other Caddy's files.
run: build site/large.bin ## serve the folder site at https://localhost:8443
	@echo
	@bin/caddy ktls check || echo 'The site works without it; connections are encrypted in user space.'
	@echo
	@echo 'In another terminal try (the two hashes are to be the same):'
	@echo '  curl -sk --http1.1 https://localhost:8443/large.bin | sha256sum; sha256sum site/large.bin'
	@echo '  bin/caddy ktls status --address localhost:8444'
	@echo '  curl -sk https://localhost:8443/metrics | grep ^caddy_ktls'
	@echo
	@XDG_DATA_HOME='$(CURDIR)/bin/data' XDG_CONFIG_HOME='$(CURDIR)/bin/data' \
		exec bin/caddy run --config examples/run.Caddyfile

site/large.bin:
	@mkdir -p site
	head -c 104857600 /dev/urandom >$@.part
	@mv $@.part $@

# The tests that need kernel TLS run natively, or in virtual machines if this
# machine's kernel has none. What is missing for that is known before the first test.
test: ## run all tests
	@code=0; for run in integration_test/run integration_test/browser/run; do SETUP=1 $$run || code=1; done; exit $$code
	$(GO) vet ./...
	env -u KTLS_REQUIRED $(GO) test ./...
	cd bench && $(GO) vet . && $(GO) test .
	integration_test/run
	integration_test/browser/run

browser: ## have Chromium load a page over HTTP/2
	integration_test/browser/run

docs: ## write the documents of what tests find; takes an hour
	WRITE=1 integration_test/run

# What is built on package ktls, with the tests that offload by a fake kernel.
FAKE := . ./fileserver ./integration_test

long: ## run the tests' long forms, and all of the benchmark; takes a day
	LONG=1 integration_test/run
	cd bench && $(GO) run . counted -kernels 6.12 -workloads network,keep-alive,after-idle,disk,slow,distant $(BENCH)
	CGO_ENABLED=0 $(GO) build -o bin/native/caddy ./cmd/caddy
	cd bench && CGO_ENABLED=0 $(GO) build -o ../bin/native/bench .
	integration_test/vm/run --timeout 3600 --add bin/native/caddy --add bin/native/bench -- /bench native \
		-caddy /caddy -seconds 1 -repetitions 1 -connections 4 -sizes 1KiB,1MiB -proxy-sizes 1MiB -idle 20 -out /tmp/native

race: ## run the tests with the race detector, but those of fake
	env -u KTLS_REQUIRED $(GO) test -race -short $(filter-out $(shell $(GO) list $(FAKE)),$(shell $(GO) list ./...))
	env -u KTLS_REQUIRED $(GO) test -race -run WithoutKernelTLS ./integration_test

fake: ## run tests with a fake kernel and the race detector
	$(GO) vet -tags fakekernel ./...
	integration_test/programs bin/fake -tags fakekernel
	PATH='$(CURDIR)/bin/fake':"$$PATH" KTLS_SOAK=$${KTLS_SOAK:-15s} \
		$(GO) test -race -tags fakekernel -timeout 30m $(FAKE) ./internal/doctor ./internal/telemetry

FUZZTIME ?= 10s
FUZZ ?= $(sort $(dir $(shell grep -rl --include='*_test.go' '^func Fuzz' .)))

fuzz: ## run all fuzz targets, or those in FUZZ, for FUZZTIME
	@set -e; for folder in $(FUZZ); do \
		list=$$(cd $$folder && $(GO) test -list '^Fuzz' .); \
		for target in $$(echo "$$list" | grep '^Fuzz'); do \
			echo "$$folder $$target"; \
			(cd $$folder && $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) .); \
		done; \
	done

# make microbench MICROBENCH=Handshake BENCHFLAGS="-count 10"
MICROBENCH ?= .
BENCHFLAGS ?=

microbench: ## measure what connections and responses cost
	$(GO) test -run '^$$' -bench '$(MICROBENCH)' -benchmem $(BENCHFLAGS) ./ktls ./fileserver .

lint: ## run gofmt and golangci-lint
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	$(GO) run $(GOLANGCI_LINT) run
	$(GO) run $(GOLANGCI_LINT) run --build-tags fakekernel ./ktls ./fileserver ./integration_test/...
	cd bench && $(GO) run $(GOLANGCI_LINT) run

examples: ## check examples and workflows with the parsers of the programs that they are for
	cd examples/check && $(GO) vet . && $(GO) test .
	$(GO) run $(ACTIONLINT)

# CGO off needs no compilers, and what isn't run need not be optimized.
cross: ## build code and tests for other systems
	@set -e; export CGO_ENABLED=0; for target in darwin/arm64 windows/amd64 freebsd/amd64 linux/arm64 linux/arm linux/386; do \
		echo "build for $$target"; export GOOS=$${target%/*} GOARCH=$${target#*/}; \
		$(GO) build '-gcflags=all=-N -l' ./...; \
		$(GO) vet '-gcflags=all=-N -l' ./...; \
	done

VERSION ?= 0.0.0
ARCHS ?= amd64 arm64

package: ## build archives and Debian packages of VERSION in bin/package, for ARCHS
	@rm -rf bin/package
	@set -e; for arch in $(ARCHS); do \
		dir=bin/package/$$arch; name=caddy-ktls_$(VERSION)_linux_$$arch; \
		CGO_ENABLED=0 GOARCH=$$arch $(GO) build -o $$dir/caddy $(XCADDY_FLAGS) ./cmd/caddy; \
		cp README.md CHANGELOG.md LICENSE examples/systemd/tls.conf $$dir; \
		tar -C $$dir --owner=0 --group=0 -czf bin/package/$$name.tar.gz .; \
		ARCH=$$arch VERSION=$(VERSION) $(GO) run $(NFPM) package -f packaging/nfpm.yaml -p deb -t bin/package/$$name.deb; \
	done
	cd bin/package && sha256sum *.tar.gz *.deb >SHA256SUMS

# BENCH has flags, as in make bench BENCH='-sizes 1MiB'. bench/README.md has more.
bench: ## measure against stock Caddy and nginx
	cd bench && $(GO) run . $(BENCH)

bench-counted: ## count instructions, system calls and memory traffic
	cd bench && $(GO) run . counted $(BENCH)

bench-check: ## count a little, and compare with bounds
	cd bench && $(GO) run . check $(BENCH)

clean: ## remove bin and site
	rm -rf bin site
