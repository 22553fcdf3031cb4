# Berth. `make help` lists the targets.
SHELL := /bin/bash
GO    ?= go
# The race detector needs a C compiler; the go command knows whether there is one.
RACE  := $(if $(filter 1,$(shell $(GO) env CGO_ENABLED)),-race)

COMMANDS := provisioner webhook ec2sim kubectl-berth

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

.PHONY: build
build: ## build the commands and bin/devcluster into bin/
	@mkdir -p bin
	$(GO) build -o bin/ $(addprefix ./cmd/,$(COMMANDS))
	$(GO) build -C hack/devcluster -o ../../bin/devcluster .

.PHONY: control-plane
control-plane: build ## build etcd, kube-apiserver, kube-scheduler, kube-controller-manager, kwok and kubectl, once, into a cache
	bin/devcluster build

.PHONY: demo
demo: control-plane ## pods in, right-sized instances out, and back to zero; KEEP=1 leaves it running
	@$(GO) run ./hack/demo

.PHONY: test
test: control-plane ## all tests, with the race detector where there is a C compiler, the real control plane included
	$(GO) tool -C hack/chart helm version # built here, not within a test's time
	$(GO) test $(RACE) -timeout 40m $$($(GO) list ./... | grep -v -e /test/e2e -e /test/crash)
	$(GO) test -C hack/devcluster ./...
	$(GO) test -C hack/parity ./...
	$(GO) test -C hack/specs ./...
	$(GO) run -C hack/parity . -n 10000 -fresh 2000
	$(GO) test -count=1 -timeout 40m ./test/e2e
	$(GO) test -count=1 -timeout 20m ./test/crash

.PHONY: test-crash
test-crash: control-plane ## kill the provisioner at every call that it makes; takes two hours
	BERTH_CRASH=all $(GO) test -count=1 -timeout 0 -v ./test/crash

.PHONY: lint
lint: ## go vet, staticcheck, import rules, generated code fresh
	test -z "$$(gofmt -l api certs cmd deploy hack internal test)"
	$(GO) vet ./...
	$(GO) vet -C hack/devcluster ./...
	$(GO) tool staticcheck ./...
	$(GO) test -count=1 ./hack/imports
	$(GO) vet -C hack/catalog ./...
	$(GO) vet -C hack/parity ./...
	$(GO) vet -C hack/specs ./...
	hack/generate.sh check
	$(GO) run -C hack/catalog . -check

.PHONY: generate
generate: ## write generated code and data anew: deepcopy, CRDs, catalogue
	hack/generate.sh
	$(GO) run -C hack/catalog .

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (default 30s)
	hack/fuzz.sh

.PHONY: parity
parity: ## kube-scheduler's own filters judge 10,000 fixed and 10,000 fresh random plans
	$(GO) run -C hack/parity . -n 10000 -fresh 10000

.PHONY: bench-burst
bench-burst: control-plane ## 1,000 pods from creation to bound on the real control plane
	$(GO) run ./hack/bench-burst

.PHONY: bench-burst-karpenter
bench-burst-karpenter: control-plane ## the same beside Karpenter on the same control plane
	$(GO) build -C hack/karpenter -o ../../bin/karpenter sigs.k8s.io/karpenter/kwok
	$(GO) run ./hack/bench-burst -karpenter bin/karpenter -karpenter-source $$($(GO) list -C hack/karpenter -m -f '{{.Dir}}' sigs.k8s.io/karpenter)

.PHONY: bench-removal
bench-removal: control-plane ## nodes given back on the real control plane: emptied, drifted, drained under budgets
	$(GO) run ./hack/bench-removal

.PHONY: bench-consolidate
bench-consolidate: ## consolidation: a sweep of 1,000 nodes, its quality, and whether it comes to rest
	$(GO) run ./hack/bench-consolidate

.PHONY: bench-seats
bench-seats: control-plane ## how many pods land on the node bought for them, on the real control plane
	$(GO) run ./hack/bench-seats

.PHONY: bench-interruption
bench-interruption: control-plane ## 10,000 messages in the interruption queue, 200 of them for nodes of the cluster
	$(GO) run ./hack/bench-interruption

.PHONY: bench-webhook
bench-webhook: control-plane ## the webhook over TLS on one core, and what it adds to the creation of pods
	$(GO) test -run '^$$' -bench 'PodReview|Miss' -benchmem ./internal/admission
	$(GO) run ./hack/bench-webhook

.PHONY: rollout
rollout: ## 100,000 calls over 20 rolling restarts, in each mode, and over 50 leaf and 5 CA rotations
	$(GO) test -count=1 -timeout 30m -v -run RollingRestarts ./internal/admission -rollout-calls 100000 -rollout-restarts 20
	$(GO) test -count=1 -timeout 30m -v -run RotationUnderLoad ./certs -rotation-calls 100000 -rotation-leaves 50 -rotation-cas 5

.PHONY: bench-planner
bench-planner: ## the planner against its bars, then its Go benchmarks
	$(GO) run ./hack/bench-planner
	$(GO) test -run '^$$' -bench . -benchmem ./internal/capacity/...

.PHONY: bench-planner-karpenter
bench-planner-karpenter: ## the first row of bench-planner beside Karpenter's scheduler, with the same pods and types
	@mkdir -p bin
	$(GO) build -C hack/karpenter -o ../../bin/karpenter-planner .
	$(GO) run ./hack/bench-planner -write-fifths bin/fifths.json
	bin/karpenter-planner bin/fifths.json
	$(GO) run ./hack/bench-planner -rows fifths

.PHONY: clean
clean: ## remove bin/
	rm -rf bin
