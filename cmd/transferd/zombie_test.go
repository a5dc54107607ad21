package main

import (
	"bytes"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/transfer/types"
)

// TestZombie: a node hangs (SIGSTOP) with uploads open, for longer than the others wait, and wakes. A client sent one of
// the files again through another node before the others noticed. Each upload has its verdict once, the newer file stays
// untouched, nothing is left in the store, and the node that woke writes nothing and ends.
func TestZombie(t *testing.T) {
	t.Parallel()
	r := startRig(t, 2)
	alive, hung := r.nodes[0], r.nodes[1]
	old := noise(12 << 20)
	for _, name := range []string{"alone.bin", "again.bin"} {
		conn := hung.putPart(t, name, old[:11<<20])
		defer conn.Close() // the daemon may close it first
	}
	if err := hung.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	fresh := &stormFile{name: "again.bin", seed: seed(), size: 9 << 20, done: make(chan struct{})}
	alive.stormPut(fresh, make(chan struct{}, 1))
	if !fresh.answered {
		t.Error("the file could not be sent again while nobody knew that the node hung")
	}

	alone := alive.awaitExecution(r.partial, "alone.bin")
	superseded := alive.awaitExecution(r.partial, "again.bin")
	t.Logf("the hung node's uploads had their verdicts %v after it stopped", time.Since(stopped).Round(time.Millisecond))
	if alone.Status != types.ExecutionStatusCompleted {
		t.Errorf("alone.bin: %s", shown(alone))
	}
	if superseded.Status != types.ExecutionStatusException || !strings.Contains(aws.ToString(superseded.Results.Steps[0].Error.Message), "ETag constraint not met") {
		t.Errorf("again.bin, whose newer file stands: %s", shown(superseded))
	}
	newer := alive.awaitExecution(r.whole, "again.bin")
	if newer.Status != types.ExecutionStatusCompleted {
		t.Errorf("the newer file: %s", shown(newer))
	}

	if err := hung.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := hung.awaitEnd(); err == nil || !strings.Contains(hung.output(), "declared this one dead") {
		t.Errorf("the node that woke ended with %v and said\n%s", err, hung.output())
	}
	if got := alive.object("alone.bin"); len(got) == 0 || !bytes.HasPrefix(old, got) {
		t.Errorf("alone.bin is %s, no beginning of what was sent", sum(got))
	}
	if got, want := alive.object("again.bin"), seeded(fresh.seed, fresh.size); !bytes.Equal(got, want) {
		t.Errorf("again.bin is %s, want the newer %s", sum(got), sum(want))
	}
	for name, want := range map[string][2]int{"alone.bin": {0, 1}, "again.bin": {1, 1}} {
		whole, partial := len(alive.executions(r.whole, name)), len(alive.executions(r.partial, name))
		if whole != want[0] || partial != want[1] {
			t.Errorf("%s: %d executions OnUpload and %d OnPartialUpload, want %v", name, whole, partial, want)
		}
	}
	if left := alive.danglingUploads(); len(left) != 0 {
		t.Errorf("multipart uploads left: %v", left)
	}
	again := r.launch(hung.data)
	r.awaitNode(again)
	r.awaitDoor(again)
	<-r.put(again, 1, "after")[0].done
	if e := alive.awaitExecution(r.whole, "after-0"); e.Status != types.ExecutionStatusCompleted {
		t.Errorf("a file through the node that is one again: %s", shown(e))
	}
}
