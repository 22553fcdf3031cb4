package admission

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// maxProblems is how many problems one denial names.
const maxProblems = 10

// reviewValidation answers the webhook that validates Provisioners. fleet gives
// what a Provisioner has bought.
func reviewValidation(body string, s *Snapshot, fleet func(provisioner string) Fleet) (string, Decision, error) {
	v, err := parseReview(body, nil)
	if err != nil {
		return v.uid, Decision{}, err
	}
	if v.kind != "Provisioner" || v.subResource != "" {
		return v.uid, Decision{Result: ResultSkipped}, nil
	}
	p, old := new(v1alpha1.Provisioner), new(v1alpha1.Provisioner)
	if v.oldObject == "" || json.Unmarshal([]byte(v.oldObject), old) != nil {
		old = nil // What was stored before is unreadable; the new one counts.
	}
	switch v.operation {
	case "DELETE":
		if old == nil || old.DeletionTimestamp != nil {
			return v.uid, Decision{Result: ResultSkipped}, nil
		}
		return v.uid, checkDeletion(old, fleet(old.Name)), nil
	case "CREATE", "UPDATE":
	default:
		return v.uid, Decision{Result: ResultSkipped}, nil
	}
	if err := json.Unmarshal([]byte(v.object), p); err != nil {
		return v.uid, Decision{}, fmt.Errorf("reading the Provisioner: %w", err)
	}
	var f Fleet
	if old != nil {
		f = fleet(old.Name)
	}
	return v.uid, ValidateProvisioner(p, old, s, f), nil
}

// ValidateProvisioner says what is wrong with a Provisioner beyond what the CRD
// can: each message names the field and the fix. old is what it replaces, nil
// for a new one. What is being deleted is always allowed, and an update that leaves
// the spec as it is unless it writes a wish about its deletion that nobody knows, so
// that finalizers can go and labels can change whatever the spec says.
//
// What follows from the specification alone is denied. What follows from prices
// and capacity is denied only on the word of recent offerings, and a warning
// otherwise; what may be meant so is a warning always. What an update does to the
// nodes of f is a warning, and above a share denied until it is acknowledged.
func ValidateProvisioner(p, old *v1alpha1.Provisioner, s *Snapshot, f Fleet) Decision {
	if p.DeletionTimestamp != nil {
		return Decision{Result: ResultAllowed}
	}
	if old != nil && apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
		if wrong := checkDeletionWish(p); len(wrong) > 0 && p.Annotations[v1alpha1.AnnotationDeletion] != old.Annotations[v1alpha1.AnnotationDeletion] {
			return Decision{Denied: wrong[0], Result: ResultDenied}
		}
		return Decision{Result: ResultAllowed}
	}
	var problems []string
	var warnings []string
	problems = append(problems, checkLabels(&p.Spec)...)
	problems = append(problems, checkTaints(&p.Spec)...)
	problems = append(problems, checkTags(p.Spec.EC2.Tags)...)
	problems = append(problems, checkBudgets(p.Spec.Disruption)...)
	problems = append(problems, checkLimits(p.Spec.Limits)...)
	if err := checkUserData(p.Spec.EC2.AMIFamily, p.Spec.EC2.UserData); err != nil {
		problems = append(problems, "spec.ec2.userData: "+err.Error())
	}
	against := contradictions(&p.Spec)
	problems = append(problems, against...)
	// A contradiction explains an empty market by itself.
	if s != nil && len(against) == 0 {
		denied, warned := s.checkMarket(p)
		problems = append(problems, denied...)
		warnings = append(warnings, warned...)
	}
	problems = append(problems, checkDeletionWish(p)...)
	warnings = append(warnings, warnOfKubelet(&p.Spec)...)
	warnings = append(warnings, warnOfReservations(&p.Spec)...)
	if old != nil && len(problems) == 0 {
		denied, warned := s.checkBlast(p, old, f)
		problems = append(problems, denied...)
		warnings = append(warned, warnings...)
	}
	if len(problems) == 0 {
		return Decision{Warnings: prefixed(warnings), Result: ResultAllowed}
	}
	more := ""
	if n := len(problems) - maxProblems; n > 0 {
		problems, more = problems[:maxProblems], fmt.Sprintf("; and %d more", n)
	}
	return Decision{Denied: strings.Join(problems, "; ") + more, Warnings: prefixed(warnings), Result: ResultDenied}
}

// checkDeletionWish wants a value that is known.
func checkDeletionWish(p *v1alpha1.Provisioner) []string {
	switch wish := p.Annotations[v1alpha1.AnnotationDeletion]; wish {
	case "", v1alpha1.DeletionOrphan, v1alpha1.DeletionDrain:
		return nil
	default:
		return []string{fmt.Sprintf("metadata.annotations[%s]: %q is not known; use %s or %s", v1alpha1.AnnotationDeletion, clip(wish, 40), v1alpha1.DeletionOrphan, v1alpha1.DeletionDrain)}
	}
}

func prefixed(warnings []string) []string {
	if len(warnings) > maxProblems {
		warnings = warnings[:maxProblems]
	}
	for i, w := range warnings {
		warnings[i] = "berth: " + w
	}
	return warnings
}

// checkLabels wants well-formed keys and values of everything that becomes a
// label, annotation or taint of a node.
func checkLabels(spec *v1alpha1.ProvisionerSpec) []string {
	var problems []string
	say := func(path string, errs []string) {
		for _, e := range errs {
			problems = append(problems, path+": "+e)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(spec.Labels)) {
		path := "spec.labels[" + clip(k, 80) + "]"
		say(path, validation.IsQualifiedName(k))
		say(path, validation.IsValidLabelValue(spec.Labels[k]))
	}
	for _, e := range apivalidation.ValidateAnnotations(spec.Annotations, field.NewPath("spec", "annotations")) {
		problems = append(problems, clip(e.Error(), 200))
	}
	for i := range spec.Requirements {
		r := &spec.Requirements[i]
		say(fmt.Sprintf("spec.requirements[%d].key", i), validation.IsQualifiedName(r.Key))
		for j, v := range r.Values {
			say(fmt.Sprintf("spec.requirements[%d].values[%d]", i, j), validation.IsValidLabelValue(v))
		}
	}
	for _, list := range []struct {
		name   string
		taints []corev1.Taint
	}{{"taints", spec.Taints}, {"startupTaints", spec.StartupTaints}} {
		for i, t := range list.taints {
			say(fmt.Sprintf("spec.%s[%d].key", list.name, i), validation.IsQualifiedName(t.Key))
			say(fmt.Sprintf("spec.%s[%d].value", list.name, i), validation.IsValidLabelValue(t.Value))
		}
	}
	return problems
}

// checkTaints wants each key and effect once over taints and startupTaints: a
// node cannot carry two, and one that goes at startup cannot be one that stays.
func checkTaints(spec *v1alpha1.ProvisionerSpec) []string {
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	var problems []string
	seen := map[identity]string{}
	check := func(name string, taints []corev1.Taint) {
		for i, t := range taints {
			path := fmt.Sprintf("spec.%s[%d]", name, i)
			id := identity{t.Key, t.Effect}
			if other, ok := seen[id]; ok {
				problems = append(problems, fmt.Sprintf("%s: %s:%s is at %s too: a node carries one taint of a key and effect; remove one", path, t.Key, t.Effect, other))
				continue
			}
			seen[id] = path
		}
	}
	check("taints", spec.Taints)
	check("startupTaints", spec.StartupTaints)
	return problems
}

// checkTags refuses what AWS does in a case that the CRD's rule does not see:
// the prefix aws: is reserved "in any combination of upper or lowercase" (EC2
// user guide, tag restrictions).
func checkTags(tags map[string]string) []string {
	var problems []string
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		if len(k) >= 4 && strings.EqualFold(k[:4], "aws:") {
			problems = append(problems, fmt.Sprintf("spec.ec2.tags[%s]: AWS reserves keys that begin with aws: in upper or lower case; use another key", k))
		}
	}
	return problems
}

// checkLimits wants whole numbers of extended resources: the CRD's rules can say
// so of names that they know, and of others only at too high a cost.
func checkLimits(limits corev1.ResourceList) []string {
	var problems []string
	for _, k := range slices.Sorted(maps.Keys(limits)) {
		if q := limits[k]; strings.Contains(string(k), "/") && q.MilliValue()%1000 != 0 {
			problems = append(problems, fmt.Sprintf("spec.limits[%s]: %s is not a whole number", clip(string(k), 80), q.String()))
		}
	}
	return problems
}

// warnOfKubelet tells where Berth counts with settings that it cannot hand on.
func warnOfKubelet(spec *v1alpha1.ProvisionerSpec) []string {
	by := ""
	switch {
	case spec.Kubelet == nil:
		return nil
	case spec.EC2.LaunchTemplate != nil:
		by = "the launch template's user data"
	case spec.EC2.AMIFamily == v1alpha1.AMIFamilyCustom:
		by = "ec2.userData"
	default:
		return nil
	}
	return []string{"spec.kubelet is counted with, and not handed to nodes: " + by + " must set the same"}
}

// warnOfReservations tells of reservations that the requirements leave out.
func warnOfReservations(spec *v1alpha1.ProvisionerSpec) []string {
	if len(spec.EC2.CapacityReservations) == 0 {
		return nil
	}
	for i := range spec.Requirements {
		r := &spec.Requirements[i]
		if r.Key == v1alpha1.LabelCapacityType && !valuesOf([]*v1alpha1.Requirement{r}).allows(v1alpha1.CapacityTypeReserved) {
			return []string{fmt.Sprintf("spec.ec2.capacityReservations: not used, as spec.requirements[%d] (%s) leaves out %s; add it there",
				i, requirementText(r), v1alpha1.CapacityTypeReserved)}
		}
	}
	return nil
}

// checkBudgets wants schedules and time zones that can be followed.
func checkBudgets(d *v1alpha1.Disruption) []string {
	if d == nil {
		return nil
	}
	var problems []string
	for i, b := range d.Budgets {
		path := fmt.Sprintf("spec.disruption.budgets[%d]", i)
		if b.Schedule != "" {
			if err := checkSchedule(b.Schedule); err != nil {
				problems = append(problems, fmt.Sprintf("%s.schedule: %q: %v; write minute hour day month weekday, such as \"0 9 * * 1-5\"", path, b.Schedule, err))
			}
		}
		if b.TimeZone != "" {
			if _, err := time.LoadLocation(b.TimeZone); err != nil || b.TimeZone == "Local" {
				problems = append(problems, fmt.Sprintf("%s.timeZone: %q is not known; use an IANA name such as Europe/Berlin, or leave it out for UTC", path, b.TimeZone))
			}
		}
	}
	return problems
}

// anyTime is where the search for a schedule's next time begins; any would do.
var anyTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func checkSchedule(schedule string) error {
	// The library reads a time zone here, and panics on a malformed one.
	if strings.HasPrefix(schedule, "TZ=") || strings.HasPrefix(schedule, "CRON_TZ=") {
		return fmt.Errorf("the time zone goes into timeZone")
	}
	s, err := cron.ParseStandard(schedule)
	if err != nil {
		return err
	}
	// The library looks five years ahead.
	if s.Next(anyTime).IsZero() {
		return fmt.Errorf("there is no such day")
	}
	return nil
}
