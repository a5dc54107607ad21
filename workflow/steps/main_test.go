package steps_test

import (
	"os"
	"testing"

	"github.com/transferd/transferd/storage/s3/gateway/gatewaytest"
)

// TestMain makes the test binary a store when it is started as one.
func TestMain(m *testing.M) { os.Exit(gatewaytest.Main(m)) }
