package api

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/transferd/transferd/server"
	"github.com/transferd/transferd/server/api/internal/awsjson"
)

// defaultResults is the page size if the caller asks for none; AWS documents none. It is the largest that one may ask for.
const defaultResults = 1000

// pageRequest are the members that every List operation has.
type pageRequest struct {
	MaxResults *int
	NextToken  *string
}

// list is one list that is being paged through: the operation and what it lists belong to a token, so that a token of
// one list is no token of another.
type list struct{ operation, parent string }

// page fetches one page with fetch and makes the token of the next one from the last item's key. The token is empty at
// the end.
func page[T any](a *API, l list, q pageRequest, fetch func(server.Page) ([]T, error), key func(T) string) ([]T, string, error) {
	limit := defaultResults
	if q.MaxResults != nil {
		limit = *q.MaxResults
	}
	after := ""
	if q.NextToken != nil {
		var ok bool
		if after, ok = a.tokens.open(l, *q.NextToken); !ok {
			return nil, "", awsjson.Errorf("InvalidNextTokenException", "The NextToken is not one of this list")
		}
	}
	// One more than asked for says whether there is another page.
	items, err := fetch(server.Page{After: after, Limit: limit + 1})
	if err != nil {
		return nil, "", err
	}
	if len(items) <= limit {
		return items, "", nil
	}
	items = items[:limit]
	return items, a.tokens.seal(l, key(items[limit-1])), nil
}

// part is the part of a whole list that a page asks for, sorted by key.
func part[T any](all []T, p server.Page, key func(T) string) []T {
	rest := slices.DeleteFunc(slices.Clone(all), func(item T) bool { return key(item) <= p.After })
	slices.SortFunc(rest, func(x, y T) int { return strings.Compare(key(x), key(y)) })
	return rest[:min(len(rest), p.Limit)]
}

// tokenKey authenticates page tokens: they hold a key of the list, and callers must not make up their own.
type tokenKey []byte

func (k tokenKey) seal(l list, after string) string {
	return base64.RawURLEncoding.EncodeToString(append(k.sum(l, after), after...))
}

func (k tokenKey) open(l list, token string) (after string, ok bool) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) < sha256.Size {
		return "", false
	}
	after = string(b[sha256.Size:])
	return after, hmac.Equal(b[:sha256.Size], k.sum(l, after))
}

func (k tokenKey) sum(l list, after string) []byte {
	mac := hmac.New(sha256.New, k)
	for _, part := range []string{l.operation, l.parent, after} {
		mac.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part)))) // else two lists could read as one
		mac.Write([]byte(part))
	}
	return mac.Sum(nil)
}
