package s3

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
)

const (
	// cleanNow is what whoever dropped an upload waits for at most: the store is known to be in trouble.
	cleanNow       = 5 * time.Second
	cleanNowBudget = time.Second
	// The background tries begin so far apart, double, and end so far apart.
	firstSweep = 250 * time.Millisecond
	lastSweep  = 30 * time.Second
	// A part whose connection was cut may reach the store after its upload was aborted and make something of it anew. So
	// what is gone is looked for again, a few times.
	firstLook = 500 * time.Millisecond
	looks     = 3 // each ten times as late as the one before: after half a second, five, fifty
)

// remains are what an upload without a file left behind: its multipart upload, if it had one, and the object, if the
// store may have made it although it did not say so.
type remains struct {
	by     *Store // whose credentials may remove them
	at     object
	upload string
	object bool
}

// look is a multipart upload that is gone and may come back.
type look struct {
	remains
	n   int // how many came before
	due time.Time
}

// sweeper removes what uploads left behind while the store was out of reach. One goroutine goes on trying until the
// store is back. What is left when the process ends is named in the log; nobody but a lifecycle rule for incomplete
// multipart uploads removes that, since for the journal such an upload was refused and is over.
type sweeper struct {
	far   *endpoint
	wake  chan struct{} // capacity 1: there is more to do
	watch chan struct{} // capacity 1: there is more to look for
	stop  context.CancelFunc
	done  chan struct{} // closed when the goroutine has ended

	mu   sync.Mutex
	todo []remains // guarded by mu
	gone []look    // guarded by mu
}

func startSweeper(e *endpoint) *sweeper {
	ctx, stop := context.WithCancel(context.Background())
	w := &sweeper{far: e, stop: stop, wake: make(chan struct{}, 1), watch: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run(ctx)
	return w
}

// clean removes the remains now, or has it done later and says so.
func (w *sweeper) clean(ctx context.Context, r remains) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanNow)
	defer cancel()
	err := w.remove(ctx, r)
	if err == nil {
		w.lookLater(look{remains: r})
		return nil
	}
	w.mu.Lock()
	w.todo = append(w.todo, r)
	w.far.metrics.pending.Inc()
	w.mu.Unlock()
	ring(w.wake)
	return fmt.Errorf("s3: removal left to the background: %w", err)
}

// ring tells the goroutine of something.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// lookLater has a multipart upload that is gone looked for again.
func (w *sweeper) lookLater(l look) {
	if l.upload == "" || l.n == looks {
		return
	}
	pause := firstLook
	for range l.n {
		pause *= 10
	}
	l.due = time.Now().Add(pause)
	w.mu.Lock()
	w.gone = append(w.gone, l)
	w.mu.Unlock()
	ring(w.watch)
}

// lookAgain looks for what was gone and is due, and removes what came back. A store that does not answer is asked at the
// next look, and no more after the last.
func (w *sweeper) lookAgain(ctx context.Context, due time.Time) {
	w.mu.Lock()
	var now []look
	w.gone = slices.DeleteFunc(w.gone, func(l look) bool {
		if l.due.After(due) {
			return false
		}
		now = append(now, l)
		return true
	})
	w.mu.Unlock()
	for _, l := range now {
		if ctx.Err() != nil {
			return
		}
		if err := l.by.abortMultipart(ctx, l.at, l.upload); err != nil {
			w.far.cfg.Logger.DebugContext(ctx, "cannot look for an aborted upload", "bucket", l.at.bucket, "name", l.at.key, "error", err)
		}
		l.n++
		w.lookLater(l)
	}
}

// nextLook is when something is due, but no later than limit.
func (w *sweeper) nextLook(limit time.Time) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, l := range w.gone {
		if l.due.Before(limit) {
			limit = l.due
		}
	}
	return limit
}

func (w *sweeper) run(ctx context.Context) {
	defer close(w.done)
	pause, next := lastSweep, time.Now().Add(lastSweep)
	for {
		timer := time.NewTimer(time.Until(w.nextLook(next)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-w.watch:
			timer.Stop()
			continue
		case <-w.wake:
			timer.Stop()
			pause, next = firstSweep, time.Now().Add(firstSweep)
			continue
		case <-timer.C:
		}
		w.lookAgain(ctx, time.Now())
		if time.Now().Before(next) {
			continue
		}
		pause = min(2*pause, lastSweep)
		next = time.Now().Add(pause)
		if err := w.sweep(ctx); err != nil {
			w.far.cfg.Logger.WarnContext(ctx, "remains of refused uploads cannot be removed yet", "error", err)
		}
	}
}

// sweep tries all there is once.
func (w *sweeper) sweep(ctx context.Context) error {
	w.mu.Lock()
	todo := w.todo[:len(w.todo):len(w.todo)] // clean appends meanwhile, nobody else removes
	w.mu.Unlock()
	var left []remains
	var errs error
	for i, r := range todo {
		err := w.remove(ctx, r)
		if err == nil {
			w.lookLater(look{remains: r})
			continue
		}
		errs = errors.Join(errs, err)
		left = append(left, r)
		if unknown(err) { // the others would wait for the same outage
			left = append(left, todo[i+1:]...)
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.todo = append(left, w.todo[len(todo):]...)
	w.far.metrics.pending.Sub(float64(len(todo) - len(left)))
	return errs
}

// close ends the goroutine and tries what is left for the last time.
func (w *sweeper) close(ctx context.Context) error {
	w.stop()
	<-w.done
	err := w.sweep(ctx)
	w.lookAgain(ctx, time.Now().Add(time.Hour)) // whatever is left to look for, once more
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range w.todo {
		w.far.cfg.Logger.WarnContext(ctx, "remains of a refused upload stay behind",
			"bucket", r.at.bucket, "name", r.at.key, "upload", r.at.id, "multipart", r.upload)
	}
	return err
}

// remove makes one attempt with few retries. It may be called again.
func (w *sweeper) remove(ctx context.Context, r remains) error {
	if r.upload != "" {
		if err := r.by.abortMultipart(ctx, r.at, r.upload); err != nil {
			return err
		}
	}
	if !r.object {
		return nil
	}
	// The file was made after all. Its client was told that it was refused and no workflow knows of it, so it goes.
	obj, ours, err := r.by.written(ctx, r.at)
	if err != nil || !ours {
		return err
	}
	return r.by.deleteVersion(ctx, r.at.bucket, r.at.key, obj.ETag)
}

// errStillThere says that a part that was under way when its upload was aborted survived that; S3 asks to abort again:
// https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
var errStillThere = errors.New("multipart upload survived its abort")

// abortMultipart removes a multipart upload and makes sure that it is gone.
func (s *Store) abortMultipart(ctx context.Context, at object, upload string) error {
	for pause := firstBackoff; pause < maxBackoff; pause *= 2 {
		_, err := request(ctx, s, call{op: "AbortMultipartUpload", name: at.key, budget: cleanNowBudget},
			func(ctx context.Context) (*s3.AbortMultipartUploadOutput, error) {
				return s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{
					Bucket: &at.bucket, Key: &at.key, UploadId: &upload,
				})
			})
		if err == nil {
			_, err = s.parts(ctx, at, upload)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return failure("AbortMultipartUpload", at.key, context.Cause(ctx))
		}
	}
	return fmt.Errorf("s3: abort %q: %w", at.key, errStillThere)
}
