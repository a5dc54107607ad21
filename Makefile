# Everything goes through these targets; .ci/run calls `make test`.
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.6.0
PKGS        := ./...
# Random kills of the storm; each takes about a second and a half.
KILLS       ?= 200

.PHONY: build test deps lint vuln race storm load bench bench-ftp bench-s3 matrix uml

build: ## the product: one static binary in bin/
	CGO_ENABLED=0 go build -trimpath -o bin/transferd ./cmd/transferd

test: deps lint vuln race ## what CI runs

deps: ## the clients that the tests drive; as root with apt, else a list of what is missing
	@sh deploy/test-deps.sh

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "not gofmt'ed:"; echo "$$out"; exit 1; fi
	go vet $(PKGS)
	go run $(STATICCHECK) $(PKGS)

vuln: ## only where its database can be reached
	@sh deploy/vuln.sh $(GOVULNCHECK) $(PKGS)

# The race detector has every process sleep for a second when it ends; the tests have hundreds of them. Most of what they
# do is wait for others, so more than a processor's worth of them runs at a time.
race:
	GORACE=atexit_sleep_ms=20 CGO_ENABLED=1 go test -race -parallel 4 -timeout 14m $(PKGS)

storm: ## kill -9 at random moments, KILLS times; prints the table
	go test -count=1 -timeout 60m -run '^TestStorm$$' -v ./cmd/transferd -storm $(KILLS)
	go test -count=1 -timeout 60m -run '^TestWorkflowStorm$$' -v ./cmd/transferd -storm $(KILLS) -executions $$(( $(KILLS) * 20 ))
	go test -count=1 -timeout 60m -run '^(TestClusterLosesItsDatabase|TestZombie)$$' -v ./cmd/transferd -storm $(KILLS)

bench: ## uploads over SFTP to a file system on tmpfs beside OpenSSH's sftp-server in the same run; prints ratios
	go test -count=1 -timeout 30m -run '^TestBenchmarkPut$$' -v ./cmd/transferd -bench-put

matrix: deps ## writes docs/ftps-clients.md anew out of what FTP clients do, FileZilla in its window with them
	@sh deploy/test-deps.sh filezilla
	go test -count=1 -timeout 20m -run '^TestFTPSClients$$' ./cmd/transferd -update
	go test -count=1 -timeout 20m -run '^TestFileZilla$$' ./cmd/transferd -filezilla -update

uml: deps ## quotas and NFS, in a kernel of its own that has them; without cgo, with which the daemon cannot drop a capability
	@sh deploy/test-deps.sh uml
	CGO_ENABLED=0 go test -count=1 -timeout 15m -run '^TestUserModeLinux$$' -v ./cmd/transferd -uml

bench-ftp: ## 1 GiB uploads over FTP and FTPS beside vsftpd and beside SFTP in the same run; prints ratios
	go test -count=1 -timeout 30m -run '^TestBenchmarkFTP$$' -v ./cmd/transferd -bench-ftp

bench-s3: ## uploads to S3 beside SFTPGo (SFTPGO=program, else installed), or rclone, on the same store; prints ratios
	go test -count=1 -timeout 30m -run '^TestBenchmarkS3$$' -v ./cmd/transferd -bench-s3 -sftpgo "$(SFTPGO)"

load: ## a thousand uploads of 32 MiB to S3 at a time (needs 35 GiB of disk), directories of up to 200,000 objects, and a copy of 5 GiB
	go test -count=1 -timeout 60m -run '^Test(ParallelUploads|LargeDirectory|LargeCopy)$$' -v ./cmd/transferd -load
