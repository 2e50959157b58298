# gpuledger: make demo shows it, make test tests it.
# Needs Go 1.26, gcc, g++, make and git; everything else is fetched as Go modules.

export GOTOOLCHAIN := local
# NVML's header marks calls as deprecated that its Go binding wraps all the same.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# NVML's symbols are resolved when a driver is there, not when the agent starts.
CGO_LDFLAGS_AGENT := $(LDFLAGS) -extldflags=-Wl,-z,lazy
CONCURRENT := ./agent/... ./collector/ingest/... ./collector/query/... ./collector/store/... ./collector/gateway/... ./collector/rollupexport/... ./internal/serving ./internal/serving/exposition \
	./collector/access ./collector/identity ./collector/peers ./internal/certs ./internal/loadgen

comma := ,

.DEFAULT_GOAL := help
.PHONY: fuzz help build demo demo-node test race bench load-test lint fmt generate check-generated check-tidy simulate simulate-mutants kill-test fault-test cluster-test check-breaking release-protos test-kube test-gpu test-gpu-bundle interop clickhouse test-clickhouse clean tools release sbom check-reproducible vulncheck FORCE

help: ## List what can be made
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the three programs into bin/
	@echo "building bin/ (the first time takes a few minutes: DuckDB is linked in)"
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/gpuledger ./cmd/gpuledger
	go build -trimpath -ldflags '$(LDFLAGS)' -o bin/gpuledger-collector ./cmd/gpuledger-collector
	go build -trimpath -ldflags '$(CGO_LDFLAGS_AGENT)' -o bin/gpuledger-agent ./cmd/gpuledger-agent

demo: build ## Build, start, play a fleet and show what inferences cost (RECORDING=file to play a recording)
	@bin/gpuledger demo $(if $(RECORDING),--recording '$(RECORDING)') $(DEMOFLAGS)

demo-node: build ## Show a GPU node on a machine without a GPU: the driver is a stub, built with gcc (DEMOFLAGS='-for 5m')
	CGO_ENABLED=0 go build -o bin/gpuload ./test/nvmlstub/cmd/gpuload
	CGO_ENABLED=0 go build -o bin/demonode ./test/demonode
	@bin/demonode -bin bin -load bin/gpuload $(DEMOFLAGS)

test: ## Run all tests (set GPULEDGER_TRACES to include the real traces)
	go test -timeout 20m ./...

simulate: ## Run agents and collectors in virtual time under faults: SEEDS=1000 of them, or all of one, SEED=7 (HOURS=100 each)
	GPULEDGER_SIMULATE_SEEDS=$(SEEDS) GPULEDGER_SIMULATE_SEED=$(SEED) GPULEDGER_SIMULATE_HOURS=$(HOURS) GOMAXPROCS=1 \
		go test ./test/simulation -run '^TestSeeds$$' -v -count 1 -timeout 24h

simulate-mutants: ## Plant bugs, and count the seeds that it takes to find each, of SEEDS (100) at most
	GPULEDGER_MUTANTS=1 GPULEDGER_MUTANTS_SEEDS=$(SEEDS) go test ./test/simulation -run '^TestMutants$$' -v -count 1 -timeout 24h

race: ## Run the concurrent packages under the race detector
	go test -race -timeout 30m $(CONCURRENT)

kill-test: ## kill -9 agent and collector 50 times each in a replay (needs GPULEDGER_TRACES)
	GPULEDGER_KILLS=50 go test ./test/e2e -run Kill -v -timeout 60m -count 1

fault-test: ## Have real processes suffer every fault REPEATS times (10) on STORES (duckdb,clickhouse); needs root
	@mkdir -p bin
	GPULEDGER_FAULTS=$(or $(REPEATS),10) GPULEDGER_FAULT_STORES=$(STORES) GPULEDGER_FAULT_TABLE=$(or $(TABLE),$(CURDIR)/bin/faults.md) go test ./test/faults -run Law3And4 -v -timeout 120m -count 1

cluster-test: ## Three collectors of one ledger on two shards of two replicas: kill and hang some of each (needs make clickhouse)
	GPULEDGER_CLICKHOUSE_CLUSTER=1 go test ./test/faults -run '^TestLaw4CollectorsOfOneLedger$$' -v -count 1 -timeout 40m

fuzz: ## Fuzz every parser for FUZZTIME each (10m), and keep the corpus
	test/fuzz.sh $(or $(FUZZTIME),10m)

test-gpu: build ## Hold the ledger against this machine's NVIDIA GPU (GPULEDGER_GPU_STUB=1: against the stub)
	GPULEDGER_GPU=1 GPULEDGER_BIN=$(CURDIR)/bin go test ./test/gpu -count 1 -v -timeout 20m -run '^(TestGPU|TestLatencies)$$'

test-gpu-bundle: build ## Pack what a GPU machine without Go needs: bin/gpu-capture.tar.gz
	test/gpu/bundle.sh bin bin/gpu-capture.tar.gz

interop: .tools/otelcol ## Show the metrics to a real Prometheus (apt-get install prometheus) and OpenTelemetry Collector
	GPULEDGER_INTEROP=1 go test ./test/interop -count 1 -v

.tools/otelcol: test/otelcol/go.mod test/otelcol/go.sum test/otelcol/main.go
	@mkdir -p .tools
	go build -C test/otelcol -o ../../$@ .

test-kube: ## Play a node's life on a real Kubernetes (root; the first time builds it, a quarter of an hour)
	GPULEDGER_KUBE=1 go test ./test/kube -v -timeout 60m -count 1

test-clickhouse: ## Hold the shared store against ClickHouse: one server, and two shards of two replicas (after make clickhouse)
	GPULEDGER_CLICKHOUSE_CLUSTER=1 go test ./collector/store/clickhouse/... -count 1 -v -timeout 90m

clickhouse: ## Unpack Debian's ClickHouse and ZooKeeper into .tools/clickhouse, for tests of the shared store
	test/clickhouse/fetch.sh .tools/clickhouse

bench: build ## Measure everything that bench/README.md reports
	go test ./bench/... -run '^$$' -bench . -benchmem -timeout 60m

load-test: build .tools/otelcol ## Hold fleets of AGENTS (1000,10000; 1000x8x64: 64 pods on each of 8 GPUs; 10000/5s: live seconds five at a time) against a collector for FOR (10m) each, in MEMORY MiB (2048), beside a server that throws all away, the first with a BACKLOG (2h; 1h,10m: one of each), beside Prometheus and OpenTelemetry
	GPULEDGER_BIN=$(CURDIR)/bin GPULEDGER_LOAD=$(or $(FOR),10m) GPULEDGER_LOAD_AGENTS=$(or $(AGENTS),1000$(comma)10000) GPULEDGER_LOAD_BACKLOG=$(or $(BACKLOG),2h) GPULEDGER_LOAD_MEMORY=$(MEMORY) go test ./bench -run '^$$' -bench '^BenchmarkLoad$$' -benchtime 1x -timeout 180m

tools: .tools/golangci-lint .tools/gofumpt .tools/buf .tools/protoc-gen-go .tools/protoc-gen-go-grpc .tools/protoc-gen-grpc-gateway .tools/benchstat

# Developer tools are pinned in a module of their own, so that none of their
# dependencies reach the programs.
.tools/%: tools/go.mod tools/go.sum
	@mkdir -p .tools
	go build -C tools -o ../$@ $$(awk '$$1 ~ "/$*$$" {print $$1; exit}' tools/go.mod)

lint: tools ## Lint and check formatting
	.tools/golangci-lint run ./...
	.tools/buf lint

fmt: tools ## Format everything
	.tools/golangci-lint fmt ./...

generate: tools ## Regenerate code and the configuration reference
	.tools/buf generate --template buf.gen.yaml
	go generate ./...

check-generated: generate
	@git diff --exit-code --stat -- proto docs || { echo "generated files are stale: run make generate and commit"; exit 1; }

check-breaking: tools ## Hold the messages against those last released: programs of both versions must understand each other
	@.tools/buf build -o - | .tools/buf breaking -#format=binpb --config buf.yaml --against proto/released.binpb

release-protos: tools ## Make the messages as they are those that later ones are held against
	.tools/buf build --exclude-source-info -o proto/released.binpb

check-tidy:
	go mod tidy -diff

# What is released says nothing of where and when it was built: the same commit
# and toolchains make the same bytes.
RELEASE := go build -trimpath -buildvcs=false
dist/gpuledger: FORCE
	CGO_ENABLED=0 $(RELEASE) -ldflags '$(LDFLAGS) -buildid=' -o $@ ./cmd/gpuledger
dist/gpuledger-collector: FORCE
	$(RELEASE) -ldflags '$(LDFLAGS) -buildid= -extldflags=-Wl$(comma)--build-id=none' -o $@ ./cmd/gpuledger-collector
dist/gpuledger-agent: FORCE
	$(RELEASE) -ldflags '$(LDFLAGS) -buildid= "-extldflags=-Wl,-z,lazy -Wl,--build-id=none"' -o $@ ./cmd/gpuledger-agent
FORCE:

.tools/sbom: tools/go.mod tools/go.sum tools/sbom/main.go
	@mkdir -p .tools
	go build -C tools -o ../$@ ./sbom

release: dist/gpuledger dist/gpuledger-collector dist/gpuledger-agent sbom ## Build dist/: programs, bills of materials, checksums
	cd dist && sha256sum gpuledger* > SHA256SUMS

sbom: .tools/sbom ## Write the bills of materials (CycloneDX) of the programs in dist/
	@for p in gpuledger gpuledger-collector gpuledger-agent; do .tools/sbom dist/$$p > dist/$$p.cdx.json || exit 1; done

check-reproducible: ## Build everything twice, in two folders, and compare
	GPULEDGER_REPRODUCIBLE=1 go test ./test/reproducible -count 1 -v -timeout 60m

vulncheck: ## Look for known weaknesses (asks vuln.go.dev)
	go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

clean: ## Remove what was built
	rm -rf bin dist .tools .demo
