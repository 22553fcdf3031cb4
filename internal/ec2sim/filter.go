package ec2sim

import (
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

// filter is one Filter.N of a Describe call: any of the values, all of the
// filters.
type filter struct {
	Name   string
	Values []string `q:"Value"`
}

// fields are the filters a Describe call has, by name, and how to read the
// values from a resource.
type fields[T any] map[string]func(T) []string

func one[T any](f func(T) string) func(T) []string {
	return func(v T) []string { return []string{f(v)} }
}

// some is the field of an item that may have none, which is empty then.
func some[T any](f func(T) string) func(T) []string {
	return func(v T) []string {
		if x := f(v); x != "" {
			return []string{x}
		}
		return nil
	}
}

// apply keeps the items that pass all filters. tags is nil for resources that
// have none. A filter that is not known is an error, as in EC2.
func apply[T any](items []T, filters []filter, known fields[T], tags func(T) map[string]string) ([]T, error) {
	for _, f := range filters {
		if len(f.Values) == 0 {
			return nil, errf("InvalidParameterValue", "The filter '%s' has no values", f.Name)
		}
		read := known[f.Name]
		if tags != nil && read == nil {
			read = tagFilter(f.Name, tags)
		}
		if read == nil {
			return nil, errf("InvalidParameterValue", "The filter '%s' is invalid", f.Name)
		}
		items = slices.DeleteFunc(slices.Clone(items), func(v T) bool {
			return !slices.ContainsFunc(read(v), func(have string) bool {
				return slices.ContainsFunc(f.Values, func(pattern string) bool { return match(pattern, have) })
			})
		})
	}
	return items, nil
}

func tagFilter[T any](name string, tags func(T) map[string]string) func(T) []string {
	if key, ok := strings.CutPrefix(name, "tag:"); ok {
		return func(v T) []string {
			if value, ok := tags(v)[key]; ok {
				return []string{value}
			}
			return nil
		}
	}
	if name == "tag-key" {
		return func(v T) []string {
			var keys []string
			for k := range tags(v) {
				keys = append(keys, k)
			}
			return keys
		}
	}
	return nil
}

// match compares with EC2's wildcards ("Filtering resources": * is any number
// of characters, ? is one, a backslash escapes them).
func match(pattern, text string) bool {
	star, restart := -1, 0
	p, t := 0, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, restart = p, t
			p++
			continue
		case p+1 < len(pattern) && pattern[p] == '\\':
			if pattern[p+1] == text[t] {
				p, t = p+2, t+1
				continue
			}
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == text[t]):
			p, t = p+1, t+1
			continue
		}
		if star < 0 {
			return false
		}
		restart++
		p, t = star+1, restart
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// paging are a Describe call's limits: the least and the most MaxResults, and
// the size of a page when none is asked for (0: everything).
type paging struct{ least, most, normal int }

// page cuts one page out of items, whose keys increase. The token is the key
// of the last item seen, so that a list that changes between two pages neither
// repeats nor loses what stays.
func page[T any](items []T, key func(i int) int, p paging, maxResults *int32, token string) ([]T, string, error) {
	size := p.normal
	if maxResults != nil {
		size = int(*maxResults)
		if size < p.least || size > p.most {
			return nil, "", errf("InvalidParameterValue", "Value ( %d ) for parameter maxResults is invalid. Expecting a value from %d to %d.", size, p.least, p.most)
		}
	}
	from := 0
	if token != "" {
		raw, err := base64.RawURLEncoding.DecodeString(token)
		last, numErr := strconv.Atoi(strings.TrimPrefix(string(raw), "after:"))
		if err != nil || numErr != nil || !strings.HasPrefix(string(raw), "after:") {
			return nil, "", errf("InvalidNextToken", "The specified token is not valid")
		}
		for from < len(items) && key(from) <= last {
			from++
		}
	}
	if size == 0 || from+size >= len(items) {
		return items[from:], "", nil
	}
	next := "after:" + strconv.Itoa(key(from+size-1))
	return items[from : from+size], base64.RawURLEncoding.EncodeToString([]byte(next)), nil
}

// byIndex is the key of lists that never change.
func byIndex(i int) int { return i }
