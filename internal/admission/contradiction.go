package admission

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// valueSet is the set of states that a label may be in under some requirements:
// absent, or one of a set of values.
type valueSet struct {
	// absent: the label need not be there.
	absent bool
	// in, when not nil, lists the only values; otherwise any value is in the
	// set but those of notIn.
	in, notIn []string
	// With numeric, only whole numbers above gt and below lt are in the set.
	numeric bool
	gt, lt  int64
}

// valuesOf intersects the requirements, all on one key, by the meaning that the
// planner gives them: NotIn holds where the label is absent, Gt and Lt hold for
// whole numbers only.
func valuesOf(rs []*v1alpha1.Requirement) valueSet {
	s := valueSet{absent: true, gt: math.MinInt64, lt: math.MaxInt64}
	for _, r := range rs {
		switch r.Operator {
		case v1alpha1.OperatorIn:
			s.absent = false
			if s.in == nil {
				s.in = slices.Clone(r.Values)
			} else {
				s.in = slices.DeleteFunc(s.in, func(v string) bool { return !slices.Contains(r.Values, v) })
			}
			if s.in == nil {
				s.in = []string{}
			}
		case v1alpha1.OperatorNotIn:
			s.notIn = append(s.notIn, r.Values...)
		case v1alpha1.OperatorExists:
			s.absent = false
		case v1alpha1.OperatorDoesNotExist:
			s.in = []string{}
		case v1alpha1.OperatorGt, v1alpha1.OperatorLt:
			s.absent, s.numeric = false, true
			bound, err := strconv.ParseInt(first(r.Values), 10, 64)
			switch {
			case err != nil:
				s.in = []string{}
			case r.Operator == v1alpha1.OperatorGt:
				s.gt = max(s.gt, bound)
			default:
				s.lt = min(s.lt, bound)
			}
		}
	}
	// DoesNotExist leaves absence only, which Exists and its like rule out again.
	if slices.ContainsFunc(rs, func(r *v1alpha1.Requirement) bool { return r.Operator == v1alpha1.OperatorDoesNotExist }) {
		s.in = []string{}
	}
	return s
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// allows says whether the label may have the value.
func (s valueSet) allows(value string) bool {
	if s.in != nil && !slices.Contains(s.in, value) || slices.Contains(s.notIn, value) {
		return false
	}
	if !s.numeric {
		return true
	}
	n, err := strconv.ParseInt(value, 10, 64)
	return err == nil && n > s.gt && n < s.lt
}

// empty says whether no label state satisfies all.
func (s valueSet) empty() bool {
	if s.absent {
		return false
	}
	if s.in != nil {
		return !slices.ContainsFunc(s.in, s.allows)
	}
	if !s.numeric {
		return false // Any value but the few of notIn.
	}
	// Whole numbers between the bounds; notIn can forbid only as many as it lists.
	if s.gt >= s.lt-1 {
		return true
	}
	n := s.gt + 1
	for range s.notIn {
		if s.allows(strconv.FormatInt(n, 10)) {
			return false
		}
		if n++; n >= s.lt {
			return true
		}
	}
	return !s.allows(strconv.FormatInt(n, 10))
}

// contradictions finds keys whose requirements no label state satisfies, and
// requirements that the Provisioner's own labels contradict.
func contradictions(spec *v1alpha1.ProvisionerSpec) []string {
	var found []string
	byKey := map[string][]int{}
	var keys []string
	for i := range spec.Requirements {
		key := spec.Requirements[i].Key
		if byKey[key] == nil {
			keys = append(keys, key)
		}
		byKey[key] = append(byKey[key], i)
	}
	at := func(indexes ...int) []*v1alpha1.Requirement {
		rs := make([]*v1alpha1.Requirement, 0, len(indexes))
		for _, i := range indexes {
			rs = append(rs, &spec.Requirements[i])
		}
		return rs
	}
	for _, key := range keys {
		indexes := byKey[key]
		if valuesOf(at(indexes...)).empty() {
			found = append(found, contradiction(spec, indexes, at))
			continue
		}
		value, ok := spec.Labels[key]
		if !ok {
			continue
		}
		for _, i := range indexes {
			if !valuesOf(at(i)).allows(value) {
				found = append(found, fmt.Sprintf("spec.labels[%s]: %q contradicts spec.requirements[%d] (%s): change the label or the requirement",
					key, value, i, requirementText(&spec.Requirements[i])))
			}
		}
	}
	return found
}

// contradiction names the requirements that contradict each other: one that no
// value satisfies, two, or all on the key where it takes all.
func contradiction(spec *v1alpha1.ProvisionerSpec, indexes []int, at func(...int) []*v1alpha1.Requirement) string {
	text := func(i int) string { return requirementText(&spec.Requirements[i]) }
	for _, i := range indexes {
		if valuesOf(at(i)).empty() {
			return fmt.Sprintf("spec.requirements[%d].values: no value satisfies %s: change the values or remove the requirement", i, text(i))
		}
	}
	for n, i := range indexes {
		for _, j := range indexes[:n] {
			if valuesOf(at(j, i)).empty() {
				return fmt.Sprintf("spec.requirements[%d].values: %s contradicts spec.requirements[%d] (%s), no value satisfies both: remove one or let them overlap",
					i, text(i), j, text(j))
			}
		}
	}
	var all []string
	for _, i := range indexes {
		all = append(all, fmt.Sprintf("spec.requirements[%d] (%s)", i, text(i)))
	}
	return fmt.Sprintf("spec.requirements[%d].values: no value satisfies all of %s: remove one or let them overlap",
		indexes[len(indexes)-1], strings.Join(all, ", "))
}

// requirementText is a requirement as people write it.
func requirementText(r *v1alpha1.Requirement) string {
	if len(r.Values) == 0 {
		return r.Key + " " + string(r.Operator)
	}
	const most = 5
	values := r.Values
	more := ""
	if len(values) > most {
		more = fmt.Sprintf(", … %d more", len(values)-most)
		values = values[:most]
	}
	return fmt.Sprintf("%s %s [%s%s]", r.Key, r.Operator, strings.Join(values, ", "), more)
}
