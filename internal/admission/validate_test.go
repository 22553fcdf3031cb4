package admission

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestUserData(t *testing.T) {
	mime := func(parts ...string) string {
		doc := "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"B\"\n\n"
		for _, p := range parts {
			doc += "--B\n" + p + "\n"
		}
		return doc + "--B--\n"
	}
	script := "Content-Type: text/x-shellscript; charset=\"us-ascii\"\n\n#!/bin/sh\necho hello"
	config := "Content-Type: application/node.eks.aws\n\napiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec: {}"
	for name, c := range map[string]struct {
		family v1alpha1.AMIFamily
		doc    string
		want   string
	}{
		"nothing":                               {"", "", ""},
		"a script":                              {"AL2023", "#!/bin/bash\necho", ""},
		"cloud-config":                          {"AL2023", "#cloud-config\nruncmd: [ls]\n", ""},
		"cloud-config that is not YAML":         {"AL2023", "#cloud-config\nruncmd: [", "not YAML"},
		"a NodeConfig":                          {"AL2023", "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\n", ""},
		"prose":                                 {"AL2023", "please install docker", "begin with one of them"},
		"MIME":                                  {"AL2023", mime(script, config), ""},
		"MIME with CRLF":                        {"AL2023", strings.ReplaceAll(mime(script, config), "\n", "\r\n"), ""},
		"MIME without parts":                    {"AL2023", mime(), "no parts"},
		"MIME without an end":                   {"AL2023", strings.TrimSuffix(mime(script), "--B--\n"), "EOF"},
		"MIME without a boundary":               {"AL2023", "Content-Type: multipart/mixed\n\nx", "names no boundary"},
		"MIME of a single part":                 {"AL2023", "Content-Type: text/plain\n\nx", "begin with one of them"},
		"a part without a type":                 {"AL2023", mime("X: y\n\nx"), "part 1 of the MIME document: it has no Content-Type"},
		"a script part without #!":              {"AL2023", mime(script, "Content-Type: text/x-shellscript\n\necho"), "part 2 of the MIME document: a script must begin with #!"},
		"an encoded part":                       {"AL2023", mime("Content-Type: text/x-shellscript\nContent-Transfer-Encoding: base64\n\nIyEvYmluL3NoCg=="), ""},
		"TOML":                                  {"Bottlerocket", "[settings.kubernetes]\nmax-pods = 5\n", ""},
		"what is not TOML":                      {"Bottlerocket", "[settings", "not TOML, line 1"},
		"settings that are no table":            {"Bottlerocket", "settings = 1", "settings must be a table"},
		"kubernetes settings that are no table": {"Bottlerocket", "[settings]\nkubernetes = 1", "settings.kubernetes must be a table"},
		"a NUL byte":                            {"Bottlerocket", "a = \"\x00\"", "NUL byte at 5"},
		"too much":                              {"Custom", strings.Repeat("x", maxUserData+1), "EC2 takes 16384"},
		"anything, for a family of one's own":   {"Custom", "\x00\x01{{ }}", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkUserData(c.family, c.doc)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// TestValueSetsAgreeWithTrying: a set of requirements is empty exactly when no
// value of a small universe, nor absence, satisfies all by the planner's rules,
// spelled out here once more.
func TestValueSetsAgreeWithTrying(t *testing.T) {
	universe := []string{"a", "b", "zz", "0", "1", "2", "3", "4", "5", "6"}
	operators := []v1alpha1.Operator{v1alpha1.OperatorIn, v1alpha1.OperatorNotIn, v1alpha1.OperatorExists, v1alpha1.OperatorDoesNotExist, v1alpha1.OperatorGt, v1alpha1.OperatorLt}
	holds := func(r *v1alpha1.Requirement, value string, present bool) bool {
		listed := false
		for _, v := range r.Values {
			listed = listed || v == value
		}
		var n, bound int
		_, err := fmt.Sscanf(value, "%d", &n)
		if r.Operator == v1alpha1.OperatorGt || r.Operator == v1alpha1.OperatorLt {
			_, _ = fmt.Sscanf(r.Values[0], "%d", &bound)
		}
		switch r.Operator {
		case v1alpha1.OperatorIn:
			return present && listed
		case v1alpha1.OperatorNotIn:
			return !present || !listed
		case v1alpha1.OperatorExists:
			return present
		case v1alpha1.OperatorDoesNotExist:
			return !present
		case v1alpha1.OperatorGt:
			return present && err == nil && n > bound
		default:
			return present && err == nil && n < bound
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var rs []*v1alpha1.Requirement
		for range rapid.IntRange(1, 4).Draw(t, "requirements") {
			r := &v1alpha1.Requirement{Key: "k", Operator: rapid.SampledFrom(operators).Draw(t, "operator")}
			switch r.Operator {
			case v1alpha1.OperatorIn, v1alpha1.OperatorNotIn:
				r.Values = rapid.SliceOfNDistinct(rapid.SampledFrom(universe[:9]), 1, 4, rapid.ID).Draw(t, "values")
			case v1alpha1.OperatorGt, v1alpha1.OperatorLt:
				r.Values = []string{rapid.SampledFrom([]string{"0", "1", "2", "3", "4", "5"}).Draw(t, "bound")}
			}
			rs = append(rs, r)
		}
		set := valuesOf(rs)
		possible := true
		for _, r := range rs {
			possible = possible && holds(r, "", false)
		}
		for _, v := range universe {
			all := true
			for _, r := range rs {
				all = all && holds(r, v, true)
			}
			if all != set.allows(v) {
				t.Fatalf("allows(%s) = %v, want %v", v, set.allows(v), all)
			}
			possible = possible || all
		}
		// Bounds are at most 5 and no list holds 6, so that what is possible at
		// all is possible in the universe; but for numbers below 0.
		belowZero := true
		for _, r := range rs {
			belowZero = belowZero && holds(r, "-7", true)
		}
		if set.empty() == (possible || belowZero) {
			t.Fatalf("empty() = %v of %v", set.empty(), set)
		}
	})
}
