package guard

import "container/list"

// recent is a map that forgets what was longest untouched once it is full.
type recent[K comparable, V any] struct {
	limit int
	items map[K]*list.Element
	order *list.List // of *item, the latest first
}

type item[K comparable, V any] struct {
	key   K
	value V
}

func newRecent[K comparable, V any](limit int) *recent[K, V] {
	return &recent[K, V]{limit: limit, items: map[K]*list.Element{}, order: list.New()}
}

// get is nil if there is no such value.
func (r *recent[K, V]) get(key K) *V {
	e, ok := r.items[key]
	if !ok {
		return nil
	}
	r.order.MoveToFront(e)
	return &e.Value.(*item[K, V]).value
}

func (r *recent[K, V]) put(key K, value V) { *r.of(key) = value }

// of makes a value if there is none.
func (r *recent[K, V]) of(key K) *V {
	if v := r.get(key); v != nil {
		return v
	}
	if len(r.items) >= r.limit {
		r.drop(r.order.Back().Value.(*item[K, V]).key)
	}
	fresh := &item[K, V]{key: key}
	r.items[key] = r.order.PushFront(fresh)
	return &fresh.value
}

func (r *recent[K, V]) drop(key K) {
	if e, ok := r.items[key]; ok {
		r.order.Remove(e)
		delete(r.items, key)
	}
}

func (r *recent[K, V]) all() []V {
	values := make([]V, 0, len(r.items))
	for e := r.order.Front(); e != nil; e = e.Next() {
		values = append(values, e.Value.(*item[K, V]).value)
	}
	return values
}
