package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// maxSize bounds one input, in bytes.
const maxSize = 256 << 20

// Error is an input that cannot be used.
type Error struct {
	// File as given, "-" for standard input.
	File string
	// Document counts from 1; 0 when the whole file is meant.
	Document int
	// Object as Kind namespace/name, as far as it is known.
	Object string
	// Field as a path: spec.template.spec.containers[0].image. Empty when the
	// whole document is meant.
	Field string
	Err   error
}

// Error is one line: file, document, object, field and what is wrong.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.place())
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	b.WriteString(": " + e.Err.Error())
	return b.String()
}

// Unwrap gives what is wrong.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) place() string {
	s := e.File
	if e.Document > 0 {
		s += fmt.Sprintf(": document %d", e.Document)
	}
	if e.Object != "" {
		s += " (" + e.Object + ")"
	}
	return s
}

// Read adds the objects of one input: YAML with any number of documents, JSON
// values one after the other, Lists of either. name stands for it in errors and
// notes. An error is an *Error, or one of reading r; the Set is then of no
// further use.
func (s *Set) Read(name string, r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, maxSize+1))
	if err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	if len(data) > maxSize {
		return &Error{File: name, Err: fmt.Errorf("larger than %d MiB", maxSize>>20)}
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if values, ok := splitJSON(data); ok {
		for i, v := range values {
			if err := s.document(&Error{File: name, Document: i + 1}, v, ""); err != nil {
				return err
			}
		}
		return nil
	}
	for i, doc := range splitYAML(data) {
		at := &Error{File: name, Document: i + 1}
		value, err := yaml.YAMLToJSONStrict(doc.text)
		if err != nil {
			// Once more, for line numbers of the file rather than the document.
			_, err = yaml.YAMLToJSONStrict(append(bytes.Repeat([]byte("\n"), doc.line), doc.text...))
			at.Err = oneLine(err)
			return at
		}
		if err := s.document(at, value, ""); err != nil {
			return err
		}
	}
	return nil
}

// splitJSON takes JSON values apart. False: it is not JSON, or not only.
func splitJSON(data []byte) ([]json.RawMessage, bool) {
	if t := bytes.TrimSpace(data); len(t) == 0 || t[0] != '{' {
		return nil, false
	}
	var out []json.RawMessage
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		var v json.RawMessage
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			return out, true
		}
		if err != nil {
			return nil, false
		}
		out = append(out, v)
	}
}

// yamlDocument is one document's text and the number of lines before it.
type yamlDocument struct {
	text []byte
	line int
}

// oneLine is what the YAML reader says, without its preambles.
func oneLine(err error) error {
	s := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	s = strings.TrimPrefix(strings.TrimPrefix(s, "yaml: "), "unmarshal errors:")
	return errors.New(strings.Join(strings.Fields(s), " "))
}

// splitYAML takes YAML documents apart. A line that begins with --- begins a
// document, one that begins with ... ends it: neither may be inside a scalar
// (YAML 1.2, 9.1). Documents of nothing but comments and directives are left out.
func splitYAML(data []byte) []yamlDocument {
	var out []yamlDocument
	var doc yamlDocument
	empty := true
	flush := func(next int) {
		if !empty {
			out = append(out, doc)
		}
		doc, empty = yamlDocument{line: next}, true
	}
	n := -1
	for line := range bytes.Lines(data) {
		n++
		if rest, ok := marker(line, "---"); ok {
			flush(n)
			// Something may stand on the marker's line: a comment, or content.
			line = append([]byte("   "), rest...)
		} else if _, ok := marker(line, "..."); ok {
			flush(n + 1)
			continue
		}
		if t := bytes.TrimSpace(line); len(t) > 0 && t[0] != '#' && line[0] != '%' {
			empty = false
		}
		if line[0] == '%' {
			line = []byte("\n")
		}
		doc.text = append(doc.text, line...)
	}
	flush(n)
	return out
}

// marker reports whether a line is a document marker, and what follows it.
func marker(line []byte, mark string) ([]byte, bool) {
	rest, ok := bytes.CutPrefix(line, []byte(mark))
	if !ok || len(rest) > 0 && !bytes.ContainsRune([]byte(" \t\r\n"), rune(rest[0])) {
		return nil, false
	}
	return rest, true
}

// header is what tells what an object is.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name         string `json:"name"`
		GenerateName string `json:"generateName"`
		Namespace    string `json:"namespace"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

// document adds one JSON value: an object, a List or null. path leads to it
// from the document's root.
func (s *Set) document(at *Error, value json.RawMessage, path string) error {
	value = bytes.TrimSpace(value)
	if len(value) == 0 || bytes.Equal(value, []byte("null")) {
		return nil
	}
	here := *at
	if value[0] != '{' {
		return here.fail(path, errors.New("not an object with apiVersion and kind"))
	}
	var h header
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &h); err != nil {
		return here.fail(join(path, locate(value, func(v []byte) error {
			return kjson.UnmarshalCaseSensitivePreserveInts(v, &header{})
		})), plain(err))
	}
	switch {
	case h.Kind == "":
		return here.fail(join(path, "kind"), errors.New("is missing"))
	case h.APIVersion == "":
		return here.fail(join(path, "apiVersion"), errors.New("is missing"))
	}
	name := h.Metadata.Name
	if name == "" && h.Metadata.GenerateName != "" {
		name = h.Metadata.GenerateName + "*"
	}
	here.Object = describe(h.Kind, h.Metadata.Namespace, name)
	if kind, ok := strings.CutSuffix(h.Kind, "List"); ok && h.Items != nil {
		return s.list(at, h, kind, path)
	}
	obj := newObject(h.APIVersion, h.Kind)
	if obj == nil {
		s.ignored(h.APIVersion, h.Kind)
		return nil
	}
	strict, err := kjson.UnmarshalStrict(value, obj)
	if err != nil {
		return here.fail(join(path, locate(value, func(v []byte) error {
			return kjson.UnmarshalCaseSensitivePreserveInts(v, newObject(h.APIVersion, h.Kind))
		})), plain(err))
	}
	for _, e := range strict {
		s.Note("%s: %s; ignored", here.place(), e)
	}
	if obj.GetName() == "" {
		if obj.GetGenerateName() == "" {
			return here.fail(join(path, "metadata.name"), errors.New("is missing"))
		}
		s.generated++
		obj.SetName(fmt.Sprintf("%s%d", obj.GetGenerateName(), s.generated))
	}
	if field, err := check(obj); err != nil {
		return here.fail(join(path, field), err)
	}
	if s.Add(obj) {
		s.Note("%s: given more than once; the last one counts", here.place())
	}
	return nil
}

// list adds the items of a List. Items of a typed list (PodList) may leave out
// what they are.
func (s *Set) list(at *Error, h header, kind, path string) error {
	for i, item := range h.Items {
		if kind != "" {
			var fields map[string]json.RawMessage
			if json.Unmarshal(item, &fields) == nil && fields != nil && fields["kind"] == nil {
				// Marshalling strings and raw messages cannot fail.
				fields["kind"], _ = json.Marshal(kind)
				fields["apiVersion"], _ = json.Marshal(h.APIVersion)
				item, _ = json.Marshal(fields)
			}
		}
		if err := s.document(at, item, join(path, fmt.Sprintf("items[%d]", i))); err != nil {
			return err
		}
	}
	return nil
}

func (e Error) fail(field string, err error) *Error {
	e.Field, e.Err = field, err
	return &e
}

func join(path, field string) string {
	if path == "" || field == "" {
		return path + field
	}
	if strings.HasPrefix(field, "[") {
		return path + field
	}
	return path + "." + field
}

func describe(kind, namespace, name string) string {
	switch {
	case name == "":
		return kind
	case namespace == "":
		return kind + " " + name
	default:
		return kind + " " + namespace + "/" + name
	}
}

// plain says what a decoder means without naming Go's types.
func plain(err error) error {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		want := map[string]string{
			"string": "a string", "bool": "true or false", "struct": "an object", "map": "an object", "slice": "a list", "ptr": "an object",
		}[mismatch.Type.Kind().String()]
		if want == "" {
			want = "a whole number"
		}
		return fmt.Errorf("%s where %s belongs", mismatch.Value, want)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

// locate finds the field that a decoder stumbles over: the innermost part of
// the value that, alone in its place, still makes it fail.
func locate(value []byte, decode func([]byte) error) string {
	var root any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &root); err != nil {
		return ""
	}
	path := ""
	place := func(v any) any { return v }
	fails := func(v any) bool {
		data, err := json.Marshal(place(v))
		return err == nil && decode(data) != nil
	}
descend:
	for at := root; ; {
		outer := place
		switch v := at.(type) {
		case map[string]any:
			if fails(map[string]any{}) {
				return path
			}
			for _, k := range sortedKeys(v) {
				place = func(x any) any { return outer(map[string]any{k: x}) }
				if fails(v[k]) {
					path, at = join(path, k), v[k]
					continue descend
				}
			}
		case []any:
			if fails([]any{}) {
				return path
			}
			place = func(x any) any { return outer([]any{x}) }
			for i := range v {
				if fails(v[i]) {
					path, at = fmt.Sprintf("%s[%d]", path, i), v[i]
					continue descend
				}
			}
		}
		return path
	}
}
