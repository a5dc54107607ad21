package usersfile

import (
	"bytes"
	"errors"
	"fmt"

	"go.yaml.in/yaml/v3"
)

// Editor changes the users of a file's text. Comments, and whatever it is not asked to change, stay; blank lines do not.
type Editor struct {
	document yaml.Node
	users    *yaml.Node // the list
}

// Edit reads a file's text, which must be right. No text at all is a file without users.
func Edit(b []byte) (*Editor, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		b = []byte("users: []\n")
	}
	if _, err := parse(b); err != nil {
		return nil, err
	}
	e := &Editor{}
	if err := yaml.Unmarshal(b, &e.document); err != nil {
		return nil, err
	}
	root := e.document.Content[0]
	e.users = member(root, "users")
	return e, nil
}

// member is the value of a key; nil if there is none.
func member(table *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(table.Content); i += 2 {
		if table.Content[i].Value == key {
			return table.Content[i+1]
		}
	}
	return nil
}

// index is where a user stands in the list; -1 if nowhere.
func (e *Editor) index(name string) int {
	for i, u := range e.users.Content {
		if n := member(u, "name"); n != nil && n.Value == name {
			return i
		}
	}
	return -1
}

// Has says whether there is a user.
func (e *Editor) Has(name string) bool { return e.index(name) >= 0 }

// Check says whether a password is a user's.
func (e *Editor) Check(name, password string) (bool, error) {
	i := e.index(name)
	if i < 0 {
		return false, fmt.Errorf("there is no user %s", name)
	}
	n := member(e.users.Content[i], "password_hash")
	if n == nil || n.Value == "" {
		return false, fmt.Errorf("user %s has no password, only public keys", name)
	}
	h, err := parseHash(n.Value)
	if err != nil {
		return false, err
	}
	return h.matches(password), nil
}

// SetPassword gives a user a password.
func (e *Editor) SetPassword(name, password string) error {
	i := e.index(name)
	if i < 0 {
		return fmt.Errorf("there is no user %s", name)
	}
	set(e.users.Content[i], "password_hash", HashPassword(password))
	return nil
}

// Add makes a user, who needs a role unless the file has one for all.
func (e *Editor) Add(name, password, role, home string) error {
	switch {
	case e.Has(name):
		return fmt.Errorf("there is a user %s already", name)
	case checkName(name) != nil:
		return fmt.Errorf("the name %q %w", name, checkName(name))
	case role == "" && !e.hasRole():
		return errors.New("the user needs a role, its own or the file's")
	case role != "" && checkRole(role) != nil:
		return fmt.Errorf("the role %w", checkRole(role))
	case checkHome(home) != nil:
		return fmt.Errorf("the home directory %w", checkHome(home))
	}
	user := &yaml.Node{Kind: yaml.MappingNode}
	set(user, "name", name)
	set(user, "password_hash", HashPassword(password))
	if role != "" {
		set(user, "role", role)
	}
	if home != "" {
		set(user, "home_directory", home)
	}
	if len(e.users.Content) == 0 {
		e.users.Style = 0 // `users: []` grows in block style
	}
	e.users.Content = append(e.users.Content, user)
	return nil
}

func (e *Editor) hasRole() bool {
	role := member(e.document.Content[0], "role")
	return role != nil && role.Value != ""
}

// Delete takes a user out, with the comments on it; false if there is none.
func (e *Editor) Delete(name string) bool {
	i := e.index(name)
	if i < 0 {
		return false
	}
	e.users.Content = append(e.users.Content[:i], e.users.Content[i+1:]...)
	if len(e.users.Content) == 0 {
		e.users.Style = yaml.FlowStyle
	}
	return true
}

// set gives a key a value, and keeps a comment behind it.
func set(table *yaml.Node, key, value string) {
	if n := member(table, key); n != nil {
		n.Kind, n.Tag, n.Style, n.Value = yaml.ScalarNode, "!!str", quoted(table), value
		return
	}
	table.Content = append(table.Content,
		&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: quoted(table), Value: key},
		&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Style: quoted(table), Value: value})
}

// quoted is how scalars are written: in flow style a comma, as hashes have them, ends a plain one.
func quoted(table *yaml.Node) yaml.Style {
	if table.Style&yaml.FlowStyle != 0 {
		return yaml.DoubleQuotedStyle
	}
	return 0
}

// Bytes is the text as it is now. It has been read back, so that it is right.
func (e *Editor) Bytes() ([]byte, error) {
	var b bytes.Buffer
	to := yaml.NewEncoder(&b)
	to.SetIndent(2)
	if err := errors.Join(to.Encode(&e.document), to.Close()); err != nil {
		return nil, fmt.Errorf("write users: %w", err)
	}
	if _, err := parse(b.Bytes()); err != nil {
		return nil, fmt.Errorf("the file would not be right any more: %w", err)
	}
	return b.Bytes(), nil
}
