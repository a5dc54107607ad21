//go:build !race

package db

import "time"

// manyUsers is how many TestManyUsers makes: as many as AWS allows on a server.
const manyUsers = 10_000

// killWithin bounds the life of a child that TestKilledWhileChanging kills.
const killWithin = 60 * time.Millisecond
