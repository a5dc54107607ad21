package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var userModeLinux = flag.Bool("uml", false, "run TestUserModeLinux: quotas and NFS, in a kernel of its own that has them")

// insideVariable says in the environment that this is the machine in the machine.
const insideVariable = "TRANSFERD_TEST_INSIDE_UML"

// TestUserModeLinux boots a kernel that has quotas and NFS, whatever this machine's has, and runs itself there: the daemon and its
// clients are the real ones, the disks are images in memory. The root directory is this machine's, which nothing there can write to.
func TestUserModeLinux(t *testing.T) {
	switch {
	case !*userModeLinux:
		t.Skip("boots a kernel: run it with -uml (make uml)")
	case os.Getenv(insideVariable) == "":
		bootUML(t)
	default:
		t.Run("Quota", umlQuota)
		t.Run("NFS", umlNFS)
	}
}

// bootUML runs this test in User-Mode Linux and takes on how it ends.
func bootUML(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script, err := filepath.Abs(filepath.Join("testdata", "uml", "init.sh"))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	first := filepath.Join(t.TempDir(), "init")
	program := fmt.Sprintf("#!/bin/sh\ncd %s\nexport %s=1\nexec sh %s %s -uml -test.v -test.run %s -test.timeout 10m\n",
		shellQuote(dir), insideVariable, shellQuote(script), shellQuote(self), shellQuote(flag.Lookup("test.run").Value.String()))
	if err := os.WriteFile(first, []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 12*time.Minute)
	defer stop()
	kernel := exec.CommandContext(ctx, "linux.uml", "mem=1G", "rootfstype=hostfs", "ro", "con=null", "con0=fd:0,fd:1", "quiet", `init="`+first+`"`)
	kernel.WaitDelay = 10 * time.Second
	kernel.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // the memory of the machine is a file there
	out, err := kernel.CombinedOutput()
	said := strings.ReplaceAll(string(out), "\r\n", "\n")
	if ended := regexp.MustCompile(`(?m)^the program in User-Mode Linux ended with status (\d+)$`).FindStringSubmatch(said); ended == nil || ended[1] != "0" {
		t.Fatalf("User-Mode Linux ended with %v and said:\n%s", err, said)
	}
	t.Logf("it said:\n%s", said)
}

// mustDo runs a command of the system and returns what it prints.
func mustDo(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), name, args...).CombinedOutput() // at the end of tests too
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// quotaDisk mounts an ext4 of its own, on which the quotas of users and groups bind, until the test ends.
func quotaDisk(t *testing.T, dir string) {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	mustDo(t, "mkfs.ext4", "-q", "-b", "1024", "-O", "quota", "-E", "quotatype=usrquota:grpquota", image)
	mustDo(t, "mount", "-o", "loop,usrquota,grpquota", image, dir)
	t.Cleanup(func() { mustDo(t, "umount", dir) })
	if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
}
