package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/transferd/transferd/server/db"
)

const migrateAbout = `transferd migrate: moves the state of a stopped daemon from its embedded database to PostgreSQL.

Every row is read back and compared. The target must be an empty database; cut short, it stays empty, and the command can
be given again. Afterwards the daemon needs the key database in its file: without it, it does not start on the old state.
Uploads that were open get their verdicts, and executions go on, when the first daemon of the new cluster starts.

Examples:
  transferd migrate -to postgres://transferd@db.example.com/transferd -config /etc/transferd.yaml
  transferd migrate -to postgres:///transferd?host=/run/postgresql -data ./transferd-data`

func runMigrate(ctx context.Context, p process, args []string) error {
	flags := newFlags(p, "migrate", migrateAbout)
	to := flags.String("to", "", "the `URL` of the PostgreSQL database; "+envDatabase+" in the environment holds it too")
	config := flags.String("config", "", "the configuration `file` of the daemon")
	data := flags.String("data", "", "its data `folder`, instead of a file")
	if err := parse(flags, args); err != nil {
		return err
	}
	if *to == "" {
		*to = os.Getenv(envDatabase)
	}
	if !databaseURL(*to) || (*config == "") == (*data == "") {
		fmt.Fprintln(p.stderr, "give -to postgres://… and one of -config and -data")
		flags.Usage()
		return errUsage
	}
	if *config != "" {
		f, err := loadFile(*config, os.Getenv)
		if err != nil {
			return err
		}
		*data = f.Data
	}
	dir := filepath.Join(*data, "db")
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s has no state of a daemon", *data)
	}
	log := slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	moved, err := db.Move(ctx, dir, *to, log)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, t := range moved {
		rows = append(rows, []string{t.Name, strconv.Itoa(t.Rows)})
	}
	if len(rows) == 0 {
		fmt.Fprintln(p.stdout, "This state was moved there before.")
		return nil
	}
	if err := table(p.stdout, "TABLE\tROWS", rows); err != nil {
		return err
	}
	fmt.Fprintln(p.stdout, "All rows were read back and are the same. Now set the key database in the configuration.")
	return nil
}
