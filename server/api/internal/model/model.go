// Package model is the service's API as data: its operations and shapes, and the check of a request against them.
//
// transfer-model.json is the published model. newer.json holds the members that the API's reference documents and the
// published model lacks, so that they are checked, kept and echoed like all others.
//
// It knows JSON and constraints, and nothing of HTTP, signatures or what an operation does.
package model

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
)

//go:embed transfer-model.json
var published []byte

//go:embed newer.json
var newer []byte

// Model is the API. It does not change after Load and may be used by many goroutines.
type Model struct {
	operations map[string]Operation
	shapes     map[string]*Shape
}

// Operation names the shapes of an operation's input and output; Output is empty if it answers nothing.
type Operation struct {
	Input  string   `json:"input"`
	Output string   `json:"output"`
	Errors []string `json:"errors"`
}

// Shape is one type of the model.
type Shape struct {
	Type      string            `json:"type"`
	Members   map[string]string `json:"members"`  // of a structure: member name to shape name
	Required  []string          `json:"required"` // of a structure
	Member    string            `json:"member"`   // of a list
	Min       *int64            `json:"min"`
	Max       *int64            `json:"max"`
	Enum      []string          `json:"enum"`
	Pattern   string            `json:"pattern"`
	Sensitive bool              `json:"sensitive"`

	regexp *regexp.Regexp // Pattern, compiled
	names  []string       // of a structure: its member names, sorted, so that violations come in a fixed order
}

// document is the form of both files.
type document struct {
	Operations map[string]Operation `json:"operations"`
	Shapes     map[string]*Shape    `json:"shapes"`
}

// Load reads the model.
func Load() (*Model, error) {
	var base, more document
	if err := json.Unmarshal(published, &base); err != nil {
		return nil, fmt.Errorf("read the published model: %w", err)
	}
	if err := json.Unmarshal(newer, &more); err != nil {
		return nil, fmt.Errorf("read the newer members: %w", err)
	}
	m := &Model{operations: base.Operations, shapes: base.Shapes}
	for name, s := range more.Shapes {
		if old := m.shapes[name]; old != nil {
			maps.Copy(old.Members, s.Members)
		} else {
			m.shapes[name] = s
		}
	}
	for name, s := range m.shapes {
		if err := s.prepare(m.shapes); err != nil {
			return nil, fmt.Errorf("shape %s: %w", name, err)
		}
	}
	return m, nil
}

// prepare compiles the pattern and makes sure that everything the shape refers to is there.
func (s *Shape) prepare(shapes map[string]*Shape) error {
	s.names = slices.Sorted(maps.Keys(s.Members))
	for _, name := range s.names {
		if shapes[s.Members[name]] == nil {
			return fmt.Errorf("member %s has no shape", name)
		}
	}
	if s.Type == "list" && shapes[s.Member] == nil {
		return fmt.Errorf("list of no shape")
	}
	if s.Pattern == "" {
		return nil
	}
	re, err := compile(s.Pattern)
	if err != nil {
		return err
	}
	s.regexp = re
	return nil
}

// Operation finds an operation by its name.
func (m *Model) Operation(name string) (Operation, bool) {
	op, ok := m.operations[name]
	return op, ok
}

// Operations are the names of all operations, sorted.
func (m *Model) Operations() []string { return slices.Sorted(maps.Keys(m.operations)) }

// Shape finds a type by its name. What it refers to belongs to the model and is not to be changed.
func (m *Model) Shape(name string) (Shape, bool) {
	if s := m.shapes[name]; s != nil {
		return *s, true
	}
	return Shape{}, false
}

// Required are the members that a structure must have.
func (m *Model) Required(shape string) []string {
	if s := m.shapes[shape]; s != nil {
		return slices.Clone(s.Required)
	}
	return nil
}
