package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/events"
)

// eventView is an event of the outbox as /debug/events tells it.
type eventView struct {
	Number int64
	Event  events.Event
}

// sinkView is a row of `transferd events sinks`.
type sinkView struct {
	Sink    string
	Backlog int64
	Oldest  *time.Time `json:",omitempty"` // when the first event was made that the sink has not had
}

const eventsAbout = `transferd events: what is told of files, as it stands in a running daemon's outbox: uploads, downloads, renames and so on.
Nothing is kept there while the configuration names no sink.` + localAbout + `

  transferd events sinks                            what each sink has still to be sent
  transferd events replay -sink NAME -since WHEN    send a sink again what it has had since then; its events keep their ids

WHEN is a time such as 2026-01-31T12:00:00Z, or how long ago, such as 2h.

Examples:
  transferd events
  transferd events -tail --json | jq .detail
  transferd events replay -sink billing -since 24h`

func runEvents(ctx context.Context, p process, args []string) error {
	if len(args) > 0 && args[0] == "replay" {
		return runReplay(ctx, p, args[1:])
	}
	if len(args) > 0 && args[0] == "sinks" {
		return runSinks(ctx, p, args[1:])
	}
	fs := newFlags(p, "events", eventsAbout)
	at := metricsFlag(fs)
	asJSON := fs.Bool("json", false, "print events as sinks get them, one a line")
	tail := fs.Bool("tail", false, "print new ones as they come, until Ctrl-C")
	n := fs.Int("n", 20, "how many of the latest are printed first")
	if err := parse(fs, args); err != nil {
		return err
	}
	where := strings.TrimSuffix(*at, "/") + "/debug/events?"
	if !*asJSON {
		fmt.Fprintf(p.stdout, eventLine, "NUMBER", "TIME", "EVENT", "USER", "FILE")
	}
	ask := url.Values{"n": {strconv.Itoa(*n)}}
	for {
		var answer struct {
			Last   int64
			Events []eventView
		}
		if err := getJSON(ctx, where+ask.Encode(), &answer); err != nil {
			return ignoreEnd(ctx, err)
		}
		for _, e := range answer.Events {
			if err := printEvent(p.stdout, e, *asJSON); err != nil {
				return err
			}
		}
		if !*tail {
			return nil
		}
		ask = url.Values{"after": {strconv.FormatInt(answer.Last, 10)}}
		if len(answer.Events) > 0 {
			continue // there may be more
		}
		select {
		case <-time.After(watchEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// eventLine is a row of `transferd events`: rows come one by one, so their columns have fixed widths.
const eventLine = "%-8v %-20v %-38v %-16v %v\n"

func printEvent(w io.Writer, e eventView, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		return enc.Encode(e.Event)
	}
	d := e.Event.Detail
	file := d.FilePath + d.DirectoryPath
	if d.RenamedPath != "" {
		file = d.OriginalPath + " -> " + d.RenamedPath
	}
	_, err := fmt.Fprintf(w, eventLine, e.Number, e.Event.Time.Format(time.RFC3339), e.Event.DetailType, d.Username, strconv.Quote(file))
	return err
}

func runSinks(ctx context.Context, p process, args []string) error {
	var f viewFlags
	var at *string
	if err := f.flags(p, "events sinks", eventsAbout, args, func(fs *flag.FlagSet) { at = metricsFlag(fs) }); err != nil {
		return err
	}
	return f.show(ctx, p.stdout, func(ctx context.Context) (view, error) {
		var sinks []sinkView
		if err := getJSON(ctx, strings.TrimSuffix(*at, "/")+"/debug/events/sinks", &sinks); err != nil {
			return view{}, err
		}
		v := view{data: sinks, headline: "SINK\tBACKLOG\tOLDEST"}
		for _, s := range sinks {
			oldest := "-"
			if s.Oldest != nil {
				oldest = s.Oldest.Format(time.RFC3339)
			}
			v.rows = append(v.rows, []string{s.Sink, strconv.FormatInt(s.Backlog, 10), oldest})
		}
		return v, nil
	})
}

func runReplay(ctx context.Context, p process, args []string) error {
	fs := newFlags(p, "events replay", eventsAbout)
	at := metricsFlag(fs)
	sink := fs.String("sink", "", "the sink's `name`")
	since := fs.String("since", "", "`WHEN` the first event was made that is sent again")
	if err := parse(fs, args); err != nil {
		return err
	}
	from, err := moment(*since, time.Now())
	if err != nil || *sink == "" {
		fmt.Fprintln(p.stderr, "give -sink NAME and -since with a time such as 2026-01-31T12:00:00Z, or how long ago, such as 2h")
		return errUsage
	}
	ask := url.Values{"sink": {*sink}, "since": {from.Format(time.RFC3339Nano)}}
	answer, err := put(ctx, strings.TrimSuffix(*at, "/")+"/debug/events/replay?"+ask.Encode())
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s events are on their way to %s\n", answer, *sink)
	return nil
}

// moment reads a time, or how long before now it was.
func moment(s string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Parse(time.RFC3339, s)
}

// put asks a running daemon to do something and returns its answer. It is a PUT because no page of a browser may send one
// to somebody else's address unasked (Fetch standard, CORS-preflight request).
func put(ctx context.Context, where string) (answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, where, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return "", err
	}
	answer = strings.TrimSpace(string(body))
	if res.StatusCode != http.StatusOK {
		return "", errors.New(answer)
	}
	return answer, nil
}

// maxEventsShown bounds one answer of /debug/events.
const maxEventsShown = 500

// debugEvents tells the latest n events, or those behind the number after.
func (d *daemon) debugEvents(w http.ResponseWriter, r *http.Request) {
	n, after := r.URL.Query().Get("n"), r.URL.Query().Get("after")
	var found []events.Event
	number, err := strconv.ParseInt(n+after, 10, 64)
	if err != nil || number < 0 || n != "" && after != "" {
		http.Error(w, "give one of n and after, a number", http.StatusBadRequest)
		return
	}
	if n != "" {
		found, err = d.db.LatestEvents(r.Context(), int(min(number, maxEventsShown)))
	} else {
		found, err = d.db.After(r.Context(), number, maxEventsShown)
	}
	if err != nil {
		d.refuseDebug(w, "read events", err)
		return
	}
	answer := struct {
		Last   int64
		Events []eventView
	}{Last: number, Events: []eventView{}}
	if n != "" {
		answer.Last = 0
	}
	for _, e := range found {
		answer.Last = e.Number
		answer.Events = append(answer.Events, eventView{e.Number, e})
	}
	d.answerJSON(w, answer)
}

func (d *daemon) debugSinks(w http.ResponseWriter, r *http.Request) {
	all, err := d.db.Backlogs(r.Context(), d.cfg.sinkNames())
	if err != nil {
		d.refuseDebug(w, "read backlogs of sinks", err)
		return
	}
	views := []sinkView{}
	for _, b := range all {
		v := sinkView{Sink: b.Sink, Backlog: b.Events}
		if !b.Oldest.IsZero() {
			v.Oldest = &b.Oldest
		}
		views = append(views, v)
	}
	d.answerJSON(w, views)
}

func (d *daemon) debugReplay(w http.ResponseWriter, r *http.Request) {
	since, err := time.Parse(time.RFC3339Nano, r.URL.Query().Get("since"))
	if err != nil {
		http.Error(w, "since is no time", http.StatusBadRequest)
		return
	}
	n, err := d.db.Replay(r.Context(), r.URL.Query().Get("sink"), since)
	if err != nil {
		d.refuseDebug(w, "replay events", err)
		return
	}
	fmt.Fprintln(w, n)
}

// refuseDebug answers with what is wrong: what is not there by name, everything else in the log.
func (d *daemon) refuseDebug(w http.ResponseWriter, what string, err error) {
	var gone *server.NotFoundError
	if errors.As(err, &gone) {
		http.Error(w, gone.Error(), http.StatusNotFound)
		return
	}
	d.log.Error(what, "error", err.Error())
	http.Error(w, "the database did not do it; the log says why", http.StatusInternalServerError)
}
