package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestColumns(t *testing.T) {
	got := columns([][]string{{"node", "$/h", "zone"}, {"n1", "0.5", "us-west-2a"}, {"n10", "10.25", "é"}}, "$/h")
	want := []string{
		"node    $/h  zone",
		"n1      0.5  us-west-2a",
		"n10   10.25  é",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
	if got := columns(nil); got != nil {
		t.Errorf("table of nothing: %q", got)
	}
}

func TestWrapKeepsWordsAndLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`([a-zé]{1,12} {0,3}){0,20}`).Draw(t, "text")
		limit := rapid.IntRange(5, 30).Draw(t, "limit")
		lines := wrap(text, limit)
		if got, want := strings.Fields(strings.Join(lines, " ")), strings.Fields(text); !slices.Equal(got, want) {
			t.Fatalf("words %q, want %q", got, want)
		}
		for i, l := range lines {
			if n := len([]rune(l)); n > limit && strings.Contains(l, " ") {
				t.Fatalf("line %q has %d columns, at most %d were given", l, n, limit)
			}
			if i > 0 {
				first, _, _ := strings.Cut(l, " ")
				if len([]rune(lines[i-1]))+1+len([]rune(first)) <= limit {
					t.Fatalf("%q would have fit behind %q", first, lines[i-1])
				}
			}
		}
	})
}

func TestResult(t *testing.T) {
	long := strings.Repeat("word ", 30)
	tests := map[string]struct {
		colour bool
		check  check
		want   string
	}{
		"passed": {check: check{name: "two pods run"}, want: "  ok    two pods run\n"},
		"passed, on a terminal": {
			colour: true, check: check{name: "two pods run"},
			want: "  \x1b[32mok\x1b[0m    two pods run\n",
		},
		"failed": {
			check: check{name: "two pods run", problems: []string{"a does not", "b does not"}},
			want:  "  FAIL  two pods run\n        - a does not\n        - b does not\n",
		},
		"failed in more ways than anybody reads": {
			check: check{name: "x", problems: strings.Split("abcdefghi", "")},
			want:  "  FAIL  x\n        - a\n        - b\n        - c\n        - d\n        - e\n        - f\n        - g\n        - and 2 more\n",
		},
		"a long line is wrapped under itself": {
			check: check{name: long},
			want:  "  ok    " + strings.TrimSpace(strings.Repeat("word ", 18)) + "\n        " + strings.TrimSpace(strings.Repeat("word ", 12)) + "\n",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			(&printer{out: &out, colour: tt.colour}).result(tt.check)
			if diff := cmp.Diff(tt.want, out.String()); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}
