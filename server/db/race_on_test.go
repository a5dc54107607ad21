//go:build race

package db

import "time"

// manyUsers is how many TestManyUsers makes: the race detector makes everything ten times slower.
const manyUsers = 400

// killWithin bounds the life of a child that TestKilledWhileChanging kills.
const killWithin = 500 * time.Millisecond
