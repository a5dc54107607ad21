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
	Dead    int64      // given up
}

// deadView is a row of `transferd events --dead`.
type deadView struct {
	Sink   string
	Number int64
	Died   time.Time
	Tries  int
	Reason string
	Event  events.Event
}

const eventsAbout = `transferd events: what is told of files, as it stands in a running daemon's outbox: uploads, downloads, renames and so on.
Nothing is kept there while the configuration names no sink.` + localAbout + `

  transferd events --dead                           what was given up because a sink did not take it, and why
  transferd events sinks                            what each sink has still to be sent
  transferd events replay -sink NAME -since WHEN    send a sink again what it has had since then; its events keep their ids
  transferd events replay -sink NAME -dead          send a sink once more what was given up; -event ID: that one alone
  transferd events forget -sink NAME                forget what was given up; -event ID: that one alone

WHEN is a time such as 2026-01-31T12:00:00Z, or how long ago, such as 2h.

Examples:
  transferd events
  transferd events -tail --json | jq .detail
  transferd events replay -sink billing -since 24h`

func runEvents(ctx context.Context, p process, args []string) error {
	if len(args) > 0 && args[0] == "replay" {
		return runReplay(ctx, p, args[1:])
	}
	if len(args) > 0 && args[0] == "forget" {
		return runForget(ctx, p, args[1:])
	}
	if len(args) > 0 && args[0] == "sinks" {
		return runSinks(ctx, p, args[1:])
	}
	fs := newFlags(p, "events", eventsAbout)
	at := metricsFlag(fs)
	asJSON := fs.Bool("json", false, "print events as sinks get them, one a line")
	tail := fs.Bool("tail", false, "print new ones as they come, until Ctrl-C")
	n := fs.Int("n", 20, "how many of the latest are printed first")
	dead := fs.Bool("dead", false, "print the events that were given up instead")
	if err := parse(fs, args); err != nil {
		return err
	}
	if *dead {
		return showDead(ctx, p, *at, *asJSON)
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
	_, err := fmt.Fprintf(w, eventLine, e.Number, e.Event.Time.Format(time.RFC3339), e.Event.DetailType, e.Event.Detail.Username, fileOf(e.Event))
	return err
}

// fileOf is what an event is about, for people.
func fileOf(e events.Event) string {
	d := e.Detail
	if d.RenamedPath != "" {
		return strconv.Quote(d.OriginalPath + " -> " + d.RenamedPath)
	}
	return strconv.Quote(d.FilePath + d.DirectoryPath)
}

// showDead prints what was given up.
func showDead(ctx context.Context, p process, at string, asJSON bool) error {
	f := viewFlags{json: asJSON}
	return f.show(ctx, p.stdout, func(ctx context.Context) (view, error) {
		var dead []deadView
		if err := getJSON(ctx, strings.TrimSuffix(at, "/")+"/debug/events/dead", &dead); err != nil {
			return view{}, err
		}
		v := view{data: dead, headline: "SINK\tGIVEN UP\tTRIES\tEVENT\tFILE\tID\tREASON"}
		for _, d := range dead {
			v.rows = append(v.rows, []string{
				d.Sink, d.Died.Format(time.RFC3339), strconv.Itoa(d.Tries), d.Event.DetailType, fileOf(d.Event), d.Event.ID, d.Reason,
			})
		}
		return v, nil
	})
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
		v := view{data: sinks, headline: "SINK\tBACKLOG\tOLDEST\tDEAD"}
		for _, s := range sinks {
			oldest := "-"
			if s.Oldest != nil {
				oldest = s.Oldest.Format(time.RFC3339)
			}
			v.rows = append(v.rows, []string{s.Sink, strconv.FormatInt(s.Backlog, 10), oldest, strconv.FormatInt(s.Dead, 10)})
		}
		return v, nil
	})
}

func runReplay(ctx context.Context, p process, args []string) error {
	fs := newFlags(p, "events replay", eventsAbout)
	at := metricsFlag(fs)
	sink := fs.String("sink", "", "the sink's `name`")
	since := fs.String("since", "", "`WHEN` the first event was made that is sent again")
	dead := fs.Bool("dead", false, "send what was given up")
	event := fs.String("event", "", "with -dead, the `id` of the only event to send")
	if err := parse(fs, args); err != nil {
		return err
	}
	ask := url.Values{"sink": {*sink}}
	from, err := moment(*since, time.Now())
	switch {
	case *sink != "" && *dead && *since == "":
		ask.Set("event", *event)
	case *sink != "" && !*dead && *event == "" && err == nil:
		ask.Set("since", from.Format(time.RFC3339Nano))
	default:
		fmt.Fprintln(p.stderr, "give -sink NAME and either -dead or -since with a time such as 2026-01-31T12:00:00Z, or how long ago, such as 2h")
		return errUsage
	}
	answer, err := order(ctx, http.MethodPut, strings.TrimSuffix(*at, "/")+"/debug/events/replay?"+ask.Encode())
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s events are on their way to %s\n", answer, *sink)
	return nil
}

func runForget(ctx context.Context, p process, args []string) error {
	fs := newFlags(p, "events forget", eventsAbout)
	at := metricsFlag(fs)
	sink := fs.String("sink", "", "the sink's `name`")
	event := fs.String("event", "", "the `id` of the only event to forget")
	if err := parse(fs, args); err != nil {
		return err
	}
	if *sink == "" {
		fmt.Fprintln(p.stderr, "give -sink NAME")
		return errUsage
	}
	answer, err := order(ctx, http.MethodPut, strings.TrimSuffix(*at, "/")+"/debug/events/forget?"+url.Values{"sink": {*sink}, "event": {*event}}.Encode())
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%s events are forgotten that %s did not take\n", answer, *sink)
	return nil
}

// moment reads a time, or how long before now it was.
func moment(s string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Parse(time.RFC3339, s)
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
		v := sinkView{Sink: b.Sink, Backlog: b.Events, Dead: b.Dead}
		if !b.Oldest.IsZero() {
			v.Oldest = &b.Oldest
		}
		views = append(views, v)
	}
	d.answerJSON(w, views)
}

// debugDead tells what was given up.
func (d *daemon) debugDead(w http.ResponseWriter, r *http.Request) {
	dead, err := d.db.DeadEvents(r.Context(), maxEventsShown)
	if err != nil {
		d.refuseDebug(w, "read events that were given up", err)
		return
	}
	views := []deadView{}
	for _, one := range dead {
		views = append(views, deadView{one.Sink, one.Event.Number, one.Died, one.Tries, one.Reason, one.Event})
	}
	d.answerJSON(w, views)
}

// debugReplay sends a sink again what it has had since a time; without one, what was given up.
func (d *daemon) debugReplay(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	var n int64
	since, err := time.Parse(time.RFC3339Nano, q.Get("since"))
	switch {
	case !q.Has("since"):
		n, err = d.db.Revive(r.Context(), q.Get("sink"), q.Get("event"))
	case err != nil:
		http.Error(w, "since is no time", http.StatusBadRequest)
		return
	default:
		n, err = d.db.Replay(r.Context(), q.Get("sink"), since)
	}
	if err != nil {
		d.refuseDebug(w, "replay events", err)
		return
	}
	fmt.Fprintln(w, n)
}

// debugForget forgets what was given up.
func (d *daemon) debugForget(w http.ResponseWriter, r *http.Request) {
	n, err := d.db.ForgetDead(r.Context(), r.URL.Query().Get("sink"), r.URL.Query().Get("event"))
	if err != nil {
		d.refuseDebug(w, "forget events that were given up", err)
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
