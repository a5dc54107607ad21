package ftpd

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/transferd/transferd/storage"
)

// TestFailureOf: what stores say has a code of FTP's and a text of ours; nothing of theirs is passed on.
func TestFailureOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		code int
	}{
		{storage.ErrQuota, 552}, {storage.ErrTooLarge, 552}, {storage.ErrNoSpace, 452}, {storage.ErrUnavailable, 451}, {fs.ErrPermission, 550},
		{fs.ErrNotExist, 550}, {fs.ErrExist, 550}, {storage.ErrNotEmpty, 550}, {errors.New("no idea"), 451},
	} {
		got := failureOf(fmt.Errorf("/srv/data: %w", errors.Join(errors.New("GET https://s3.internal"), c.err)))
		if got.code != c.code || strings.Contains(got.text, "srv") || strings.Contains(got.text, "s3") || strings.Contains(got.text, "idea") {
			t.Errorf("%v: %+v, want code %d", c.err, got, c.code)
		}
	}
}
