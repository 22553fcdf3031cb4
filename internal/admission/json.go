package admission

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxNesting is how deep objects and arrays may lie in each other. A pod in a
// review needs about 15.
const maxNesting = 64

var errNesting = fmt.Errorf("nested deeper than %d", maxNesting)

// reader walks over a JSON document without building anything: the caller
// takes the members that it wants and skips the rest. After the first error
// every method does nothing and returns zero values; err says what it was. What
// is skipped is checked for structure, not for every rule of the grammar.
//
// Strings that hold no escape are slices of the document.
type reader struct {
	s     string
	i     int
	depth int
	err   error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("JSON at byte %d: %s", r.i, what)
	}
}

// peek is the first byte of the next value; 0 at the end.
func (r *reader) peek() byte {
	for r.i < len(r.s) {
		switch c := r.s[r.i]; c {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return c
		}
	}
	return 0
}

// take consumes c, after white space, if it is next.
func (r *reader) take(c byte) bool {
	if r.err == nil && r.peek() == c {
		r.i++
		return true
	}
	return false
}

// null consumes null, if it is next.
func (r *reader) null() bool {
	if r.err == nil && r.peek() == 'n' && strings.HasPrefix(r.s[r.i:], "null") {
		r.i += 4
		return true
	}
	return false
}

func (r *reader) enter() bool {
	if r.depth++; r.depth > maxNesting {
		if r.err == nil {
			r.err = errNesting
		}
		return false
	}
	return true
}

// object calls member for each member with its key; member must consume the
// value. It reports whether there was an object; null has no members.
func (r *reader) object(member func(key string)) bool {
	if r.null() {
		return false
	}
	if !r.take('{') {
		r.fail("an object is expected")
		return false
	}
	if !r.enter() {
		return false
	}
	defer func() { r.depth-- }()
	if r.take('}') {
		return true
	}
	for r.err == nil {
		key := r.text()
		if !r.take(':') {
			r.fail("a colon is expected")
			return false
		}
		member(key)
		if r.take('}') {
			return r.err == nil
		}
		if !r.take(',') {
			r.fail("a comma or } is expected")
		}
	}
	return false
}

// array calls element for each element; element must consume it. null has none.
func (r *reader) array(element func()) {
	if r.null() {
		return
	}
	if !r.take('[') {
		r.fail("an array is expected")
		return
	}
	if !r.enter() {
		return
	}
	defer func() { r.depth-- }()
	if r.take(']') {
		return
	}
	for r.err == nil {
		element()
		if r.take(']') {
			return
		}
		if !r.take(',') {
			r.fail("a comma or ] is expected")
		}
	}
}

// scan finds the end of the string that begins at r.i and reports whether it
// holds escapes. Each byte is looked at twice at most: the next quote is sought
// anew only when the last one turned out to be escaped.
func (r *reader) scan() (content string, escaped bool) {
	start := r.i + 1
	for i, quote := start, -1; i < len(r.s); {
		if quote < i {
			n := strings.IndexByte(r.s[i:], '"')
			if n < 0 {
				break
			}
			quote = i + n
		}
		if e := strings.IndexByte(r.s[i:quote], '\\'); e >= 0 {
			escaped = true
			i += e + 2
			continue
		}
		r.i = quote + 1
		return r.s[start:quote], escaped
	}
	r.i = len(r.s)
	r.fail("a string does not end")
	return "", false
}

// text consumes a string; null is the empty one.
func (r *reader) text() string {
	if r.err != nil || r.null() {
		return ""
	}
	if r.peek() != '"' {
		r.fail("a string is expected")
		return ""
	}
	s, escaped := r.scan()
	if r.err != nil || !escaped {
		return s
	}
	return r.unescape(s)
}

func (r *reader) unescape(s string) string {
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			b = append(b, s[i])
			i++
			continue
		}
		if i+1 >= len(s) {
			r.fail("an escape is cut short")
			return ""
		}
		c := s[i+1]
		i += 2
		switch c {
		case '"', '\\', '/':
			b = append(b, c)
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			u, ok := hex4(s[i:])
			if !ok {
				r.fail(`a \u escape is malformed`)
				return ""
			}
			i += 4
			if u >= 0xd800 && u < 0xdc00 && strings.HasPrefix(s[i:], `\u`) {
				if low, ok := hex4(s[i+2:]); ok && low >= 0xdc00 && low < 0xe000 {
					u = 0x10000 + (u-0xd800)<<10 + (low - 0xdc00)
					i += 6
				}
			}
			// A lone surrogate becomes U+FFFD, as in encoding/json.
			b = utf8.AppendRune(b, u)
		default:
			r.fail("an unknown escape")
			return ""
		}
	}
	return string(b)
}

func hex4(s string) (rune, bool) {
	if len(s) < 4 {
		return 0, false
	}
	u, err := strconv.ParseUint(s[:4], 16, 16)
	return rune(u), err == nil
}

// integer consumes a whole number of at most 32 bits; null is 0.
func (r *reader) integer() int32 {
	if r.err != nil || r.null() {
		return 0
	}
	n, err := strconv.ParseInt(r.scalar(), 10, 32)
	if err != nil {
		r.fail("a whole number is expected")
	}
	return int32(n)
}

// boolean consumes true or false; null is false.
func (r *reader) boolean() bool {
	if r.err != nil || r.null() {
		return false
	}
	switch r.scalar() {
	case "true":
		return true
	case "false":
	default:
		r.fail("true or false is expected")
	}
	return false
}

// scalar consumes a number or a literal.
func (r *reader) scalar() string {
	if r.err != nil {
		return ""
	}
	r.peek()
	start := r.i
	for r.i < len(r.s) {
		switch c := r.s[r.i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c == '-', c == '+', c == '.', c == 'E':
			r.i++
			continue
		}
		break
	}
	if start == r.i {
		r.fail("a value is expected")
	}
	return r.s[start:r.i]
}

// texts consumes an array of strings.
func (r *reader) texts() []string {
	var out []string
	r.array(func() { out = append(out, r.text()) })
	return out
}

// textMap consumes an object whose values are strings; nil for null or none.
func (r *reader) textMap() map[string]string {
	var m map[string]string
	r.object(func(key string) {
		if m == nil {
			m = make(map[string]string, 8)
		}
		m[key] = r.text()
	})
	return m
}

// skip consumes any value.
func (r *reader) skip() {
	depth := r.depth
	for r.err == nil {
		switch r.peek() {
		case 0:
			r.fail("the document ends early")
			return
		case '{', '[':
			if depth++; depth > maxNesting {
				r.err = errNesting
				return
			}
			r.i++
			continue // The next token is a key, a value or the end.
		case '}', ']':
			depth--
			r.i++
		case '"':
			r.scan()
		case ',', ':':
			if depth == r.depth {
				r.fail("a value is expected")
				return
			}
			r.i++
			continue
		default:
			r.scalar()
		}
		if depth < r.depth {
			r.fail("a value is expected")
			return
		}
		if depth == r.depth {
			return
		}
	}
}

// raw consumes any value and returns its text.
func (r *reader) raw() string {
	r.peek()
	start := r.i
	r.skip()
	if r.err != nil {
		return ""
	}
	return r.s[start:r.i]
}

// end checks that nothing but white space is left.
func (r *reader) end() error {
	if r.err == nil && r.peek() != 0 {
		r.fail("something follows the document")
	}
	return r.err
}

// appendString appends s as a JSON string. What is not valid UTF-8 becomes
// U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < 0x20 || c == 0x7f:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			default:
				b = append(b, c)
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		b = utf8.AppendRune(b, r)
		i += n
	}
	return append(b, '"')
}

// appendPointer appends a key as a segment of a JSON pointer (RFC 6901), ready
// to stand inside a JSON string: keys are our own and need no other escape.
func appendPointer(b []byte, key string) []byte {
	for i := range len(key) {
		switch key[i] {
		case '~':
			b = append(b, '~', '0')
		case '/':
			b = append(b, '~', '1')
		default:
			b = append(b, key[i])
		}
	}
	return b
}

// errNoReview is what is not an AdmissionReview at all.
var errNoReview = errors.New("not an admission.k8s.io/v1 AdmissionReview")
