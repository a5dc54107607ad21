package api_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp/syntax"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api/internal/model"
)

// generator makes values of the model's shapes at random: everything that the constraints allow, the edges too. special
// has the shapes whose values mean something beyond their constraints.
type generator struct {
	t       testing.TB
	r       *rand.Rand
	model   *model.Model
	special map[string]func() any
}

func (g *generator) shape(name string) model.Shape {
	g.t.Helper()
	s, ok := g.model.Shape(name)
	if !ok {
		g.t.Fatalf("the model has no shape %s", name)
	}
	return s
}

func (g *generator) coin() bool { return g.r.IntN(2) == 0 }

// value makes a value of a shape.
func (g *generator) value(name string) any {
	if f := g.special[name]; f != nil {
		return f()
	}
	s := g.shape(name)
	switch s.Type {
	case "structure":
		return g.structure(name)
	case "list":
		n := g.between(deref(s.Min, 0), min(deref(s.Max, 4), deref(s.Min, 0)+4))
		list := make([]any, 0, n)
		for range n {
			list = append(list, g.value(s.Member))
		}
		return list
	case "string":
		return g.text(s)
	case "integer", "long":
		return g.between(deref(s.Min, math.MinInt32), deref(s.Max, math.MaxInt32))
	case "boolean":
		return g.coin()
	}
	g.t.Fatalf("shape %s is a %s", name, s.Type)
	return nil
}

// structure makes an object with all the required members and some of the others.
func (g *generator) structure(name string) map[string]any {
	s := g.shape(name)
	object := map[string]any{}
	for _, member := range slices.Sorted(maps.Keys(s.Members)) {
		if slices.Contains(s.Required, member) || g.coin() {
			object[member] = g.value(s.Members[member])
		}
	}
	return object
}

// between is a number from low to high; the ends come often.
func (g *generator) between(low, high int64) int64 {
	switch g.r.IntN(6) {
	case 0:
		return low
	case 1:
		return high
	}
	return low + g.r.Int64N(high-low+1)
}

// text makes a string that a shape allows.
func (g *generator) text(s model.Shape) string {
	if len(s.Enum) > 0 {
		return s.Enum[g.r.IntN(len(s.Enum))]
	}
	low, high := deref(s.Min, 0), deref(s.Max, 64)
	if s.Pattern == "" {
		var b strings.Builder
		for range g.between(low, min(high, low+300)) {
			b.WriteRune(g.rune())
		}
		return b.String()
	}
	re, err := syntax.Parse(strings.NewReplacer(`\S`, `[!-~äß字]`, `\u0000`, `\x00`, `[^\x00]`, `[\x01-~]`, `[\P{M}\p{M}]`, `[ -~äß字\n]`).Replace(s.Pattern), syntax.Perl)
	if err != nil {
		g.t.Fatalf("pattern %s: %v", s.Pattern, err)
	}
	for range 1000 {
		var b strings.Builder
		g.match(&b, re)
		if n := int64(utf8.RuneCountInString(b.String())); low <= n && n <= high {
			return b.String()
		}
	}
	g.t.Fatalf("no text of %d to %d characters matches %s", low, high, s.Pattern)
	return ""
}

// match writes something that an expression matches.
func (g *generator) match(b *strings.Builder, re *syntax.Regexp) {
	times := func(low, high int) {
		for range low + g.r.IntN(high-low+1) {
			g.match(b, re.Sub[0])
		}
	}
	switch re.Op {
	case syntax.OpLiteral:
		b.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		at := 2 * g.r.IntN(len(re.Rune)/2)
		low, high := re.Rune[at], re.Rune[at+1]
		c := low + rune(g.r.Int64N(int64(high-low)+1))
		if !unicode.IsGraphic(c) && high > 0x7f || !utf8.ValidRune(c) { // classes such as \p{L} reach far
			c = low
		}
		b.WriteRune(c)
	case syntax.OpAnyCharNotNL, syntax.OpAnyChar:
		b.WriteByte(byte('!' + g.r.IntN('~'-'!')))
	case syntax.OpStar:
		times(0, 24)
	case syntax.OpPlus:
		times(1, 24)
	case syntax.OpQuest:
		times(0, 1)
	case syntax.OpRepeat:
		high := re.Max
		if high < 0 {
			high = re.Min + 24
		}
		times(re.Min, high)
	case syntax.OpConcat:
		for _, sub := range re.Sub {
			g.match(b, sub)
		}
	case syntax.OpAlternate:
		g.match(b, re.Sub[g.r.IntN(len(re.Sub))])
	case syntax.OpCapture:
		g.match(b, re.Sub[0])
	case syntax.OpEmptyMatch:
	default:
		g.t.Fatalf("expression %s has an operator that is not known here: %v", re, re.Op)
	}
}

// rune is any character: control characters, those that JSON and HTML escape, and those beyond 16 bits.
func (g *generator) rune() rune {
	const odd = "\t\n\x7f\"\\/<>&'\u2028\u00e4\u5b57\U0001f4a9${}"
	if g.coin() {
		all := []rune(odd)
		return all[g.r.IntN(len(all))]
	}
	return rune(' ' + g.r.IntN('~'-' '))
}

func deref(v *int64, or int64) int64 {
	if v != nil {
		return *v
	}
	return or
}

// pick is one of some values.
func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// some is a part of a list that is not empty, in any order.
func some[T any](r *rand.Rand, from ...T) []T {
	from = slices.Clone(from)
	r.Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] })
	return from[:1+r.IntN(len(from))]
}

// newGenerator makes a generator that knows the values which the service's rules ask for. flows are workflows that exist.
func newGenerator(t testing.TB, m *model.Model, seed uint64, flows ...string) *generator {
	g := &generator{t: t, r: rand.New(rand.NewPCG(seed, 1)), model: m}
	texts := func(from ...string) func() any { return func() any { return pick(g.r, from...) } }
	g.special = map[string]func() any{
		"Certificate":        texts("arn:aws:acm:eu-central-1:123456789012:certificate/c", "arn:aws:acm:x"),
		"Url":                texts("https://x.example/prod?a=<b>&c", "http://127.0.0.1:8080"),
		"PassiveIp":          texts("AUTO", "0.0.0.0", "192.0.2.255"),
		"SecurityPolicyName": texts(server.PolicyNames()...),
		"WorkflowId":         texts(append(flows, "w-0123456789abcdefg")[:max(1, len(flows))]...),
		"Policy":             texts(`{"Statement":[]}`, `{"Statement":{"Effect":"Deny","Action":"*","Resource":"arn:aws:s3:::${Transfer:HomeBucket}/ä\n"}}`, "\n{ \"Statement\" : [\t] }\t"),
		"SshPublicKeyBody":   texts(goodKey, goodKey+" <anna> & others"),
		"SourceFileLocation": texts("${original.file}", "${previous.file}"),
		"HostKey":            texts("good", ""),
		"HomeDirectory":      texts("", "/", "/bucket/${Transfer:UserName}", "/bucket/ä <&> /", "/bucket/${transfer:UserName}/x/"),
		"SftpPort":           func() any { return pick(g.r, int64(22), g.between(2000, 65535)) },
		"As2Transports":      func() any { return nil },
		"Tags":               g.tags,
		"S3Tags":             g.tags,
		"SftpPorts":          g.ports,
		"HomeDirectoryMappings": func() any {
			return g.mappings()
		},
		"StructuredLogDestinations": func() any {
			return pick(g.r, []any{}, []any{"arn:aws:logs:eu-central-1:123456789012:log-group:/a/<b>&c:*"})
		},
	}
	return g
}

// tags have keys of their own that nobody has reserved.
func (g *generator) tags() any {
	var tags []any
	for i := range g.between(1, 10) {
		tags = append(tags, map[string]any{"Key": fmt.Sprintf("%d: key ä", i), "Value": strings.Repeat(pick(g.r, "", "x", "=/+@ ", "ä"), 1+g.r.IntN(50))})
	}
	return tags
}

func (g *generator) ports() any {
	list := []any{}
	for _, port := range some(g.r, 22, 2000, 2222, 65535) {
		if p := map[string]any{"SftpPort": port}; len(list) < 3 {
			if g.coin() {
				p["CommunicationMode"] = g.value("CommunicationMode")
			}
			list = append(list, p)
		}
	}
	return list
}

// mappings do not overlap.
func (g *generator) mappings() []any {
	var list []any
	for _, entry := range some(g.r, "/in", "/out/a", "/out/b", "/äß <&>", "/${Transfer:UserName}") {
		m := map[string]any{"Entry": entry, "Target": pick(g.r, "/bucket/${Transfer:UserName}", "/bucket/a b/ü", "/fs-01234567/x")}
		if g.coin() {
			m["Type"] = g.value("MapType")
		}
		list = append(list, m)
	}
	return list
}

// spoiled is a copy of a request of a shape with one value that the model does not allow, and true; or false if it was
// not found: not every shape has constraints.
func (g *generator) spoiled(shapeName string, value any) (any, bool) {
	s := g.shape(shapeName)
	switch v := value.(type) {
	case map[string]any:
		names := slices.Sorted(maps.Keys(v))
		g.r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			if slices.Contains(s.Required, name) && g.r.IntN(8) == 0 {
				return without(v, name), true
			}
			if bad, ok := g.spoiled(s.Members[name], v[name]); ok {
				v = maps.Clone(v)
				v[name] = bad
				return v, true
			}
		}
	case []any:
		if s.Max != nil && *s.Max < 100 && len(v) > 0 && g.coin() {
			return slices.Repeat(v, int(*s.Max)+1), true
		}
		for i := range v {
			if bad, ok := g.spoiled(s.Member, v[i]); ok {
				v = slices.Clone(v)
				v[i] = bad
				return v, true
			}
		}
	case string:
		switch {
		case len(s.Enum) > 0:
			return v + "x", true
		case s.Max != nil && g.coin():
			return v + strings.Repeat("a", int(*s.Max)+1), true
		}
	case int64, int:
		if s.Max != nil {
			return *s.Max + 1, true
		}
	}
	return nil, false
}

func without(object map[string]any, name string) map[string]any {
	object = maps.Clone(object)
	delete(object, name)
	return object
}
