// Package query reads and writes the EC2 query protocol ("EC2 Query API",
// smithy ec2Query): a form in, where nested members are dotted and lists are
// numbered from 1 (Filter.1.Value.2), and XML out.
//
// Decoding is strict: a parameter that the target struct does not have is an
// error, so that a caller who misspells one, or uses one that is not
// implemented, is told so.
package query

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Error says that a parameter is wrong. Unknown is true when the target has
// no such parameter, false when its value has the wrong form.
type Error struct {
	// Name is the dotted name of the parameter.
	Name string
	// Value is what was sent.
	Value   string
	Unknown bool
}

func (e *Error) Error() string {
	if e.Unknown {
		return fmt.Sprintf("The parameter %s is not recognized", e.Name)
	}
	return fmt.Sprintf("Value (%s) for parameter %s is invalid", e.Value, e.Name)
}

// node is one level of the parameter tree.
type node struct {
	value    string
	set      bool
	children map[string]*node
}

// maxDepth bounds the nesting of names; the deepest real one has 8 parts.
const maxDepth = 32

// Decode sets the fields of the struct that into points to. A field is called
// by its `q` tag, or by its own name; "-" hides it. Supported are strings, booleans,
// integers, floats, time.Time (ISO 8601), pointers to those, structs and
// slices of any of them; the fields of an embedded struct count as the
// struct's own. Errors are of type *Error.
func Decode(form url.Values, into any) error {
	root := &node{}
	for name, values := range form {
		parts := strings.Split(name, ".")
		if len(values) != 1 || len(parts) > maxDepth {
			return &Error{Name: name, Value: strings.Join(values, ",")}
		}
		n := root
		for _, part := range parts {
			if n.children == nil {
				n.children = map[string]*node{}
			}
			next := n.children[part]
			if next == nil {
				next = &node{}
				n.children[part] = next
			}
			n = next
		}
		n.value, n.set = values[0], true
	}
	return decodeStruct(root, "", reflect.ValueOf(into).Elem())
}

func decodeStruct(n *node, path string, v reflect.Value) error {
	if n.set {
		return &Error{Name: path, Value: n.value}
	}
	known := map[string][]int{}
	for _, f := range reflect.VisibleFields(v.Type()) {
		if f.Anonymous {
			continue // its fields are visible as the struct's own
		}
		switch name := f.Tag.Get("q"); name {
		case "-":
		case "":
			known[f.Name] = f.Index
		default:
			known[name] = f.Index
		}
	}
	for _, name := range sortedKeys(n.children) {
		index, ok := known[name]
		if !ok {
			return &Error{Name: firstLeaf(n.children[name], join(path, name)), Unknown: true}
		}
		if err := decodeValue(n.children[name], join(path, name), v.FieldByIndex(index)); err != nil {
			return err
		}
	}
	return nil
}

var timeType = reflect.TypeFor[time.Time]()

func decodeValue(n *node, path string, v reflect.Value) error {
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return decodeValue(n, path, v.Elem())
	case v.Kind() == reflect.Slice:
		return decodeSlice(n, path, v)
	case v.Kind() == reflect.Struct && v.Type() != timeType:
		return decodeStruct(n, path, v)
	}
	if len(n.children) > 0 {
		return &Error{Name: firstLeaf(n, path), Unknown: true}
	}
	return decodeScalar(n.value, path, v)
}

func decodeScalar(text, path string, v reflect.Value) error {
	bad := &Error{Name: path, Value: text}
	switch {
	case v.Type() == timeType:
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return bad
		}
		v.Set(reflect.ValueOf(t))
	case v.Kind() == reflect.String:
		v.SetString(text)
	case v.Kind() == reflect.Bool:
		if text != "true" && text != "false" {
			return bad
		}
		v.SetBool(text == "true")
	case v.CanInt():
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return bad
		}
		v.SetInt(i)
	case v.CanFloat():
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f != f {
			return bad
		}
		v.SetFloat(f)
	default:
		panic("query: a field of type " + v.Type().String())
	}
	return nil
}

// decodeSlice reads Name.1, Name.2 …; the numbers must be 1 to n without a gap.
func decodeSlice(n *node, path string, v reflect.Value) error {
	if n.set {
		return &Error{Name: path, Value: n.value}
	}
	out := reflect.MakeSlice(v.Type(), len(n.children), len(n.children))
	for i := range len(n.children) {
		key := strconv.Itoa(i + 1)
		child, ok := n.children[key]
		if !ok {
			for _, name := range sortedKeys(n.children) {
				return &Error{Name: firstLeaf(n.children[name], join(path, name)), Unknown: true}
			}
		}
		if err := decodeValue(child, join(path, key), out.Index(i)); err != nil {
			return err
		}
	}
	v.Set(out)
	return nil
}

func firstLeaf(n *node, path string) string {
	for !n.set && len(n.children) > 0 {
		name := sortedKeys(n.children)[0]
		path, n = join(path, name), n.children[name]
	}
	return path
}

func sortedKeys(m map[string]*node) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
