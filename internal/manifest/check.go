package manifest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// maxReplicas bounds what one workload may ask for: beyond it there is a slip
// of the finger, not a workload.
const maxReplicas = 1_000_000

// check finds what decodes and yet cannot be planned for: the API server would
// refuse it too. It returns the field and what is wrong with it.
func check(o Object) (string, error) {
	switch o := o.(type) {
	case *v1alpha1.Provisioner:
		return checkRequirements(o.Spec.Requirements)
	case *v1alpha1.NodeClaim:
		if len(o.Spec.Offerings) == 0 {
			return "spec.offerings", errors.New("at least one is needed")
		}
	case *schedulingv1beta1.PodGroup:
		if g := o.Spec.SchedulingPolicy.Gang; g != nil && g.MinCount < 1 {
			return "spec.schedulingPolicy.gang.minCount", fmt.Errorf("%d is not 1 or more", g.MinCount)
		}
	case *corev1.Pod:
		return checkPod("spec", &o.Spec)
	case *appsv1.Deployment:
		return checkWorkload(o.Spec.Replicas, "spec.replicas", &o.Spec.Template)
	case *appsv1.ReplicaSet:
		return checkWorkload(o.Spec.Replicas, "spec.replicas", &o.Spec.Template)
	case *corev1.ReplicationController:
		if o.Spec.Template == nil {
			return "spec.template", errors.New("is missing")
		}
		return checkWorkload(o.Spec.Replicas, "spec.replicas", o.Spec.Template)
	case *nodev1.RuntimeClass:
		if o.Overhead != nil {
			return checkAmounts("overhead.podFixed", o.Overhead.PodFixed)
		}
	case *appsv1.StatefulSet:
		return checkWorkload(o.Spec.Replicas, "spec.replicas", &o.Spec.Template)
	case *appsv1.DaemonSet:
		return checkWorkload(nil, "", &o.Spec.Template)
	case *batchv1.Job:
		if c := o.Spec.Completions; c != nil && *c < 0 {
			return "spec.completions", errors.New("must not be negative")
		}
		return checkWorkload(o.Spec.Parallelism, "spec.parallelism", &o.Spec.Template)
	}
	return "", nil
}

func checkWorkload(replicas *int32, field string, t *corev1.PodTemplateSpec) (string, error) {
	if replicas != nil && (*replicas < 0 || *replicas > maxReplicas) {
		return field, fmt.Errorf("%d is not between 0 and %d", *replicas, maxReplicas)
	}
	return checkPod("spec.template.spec", &t.Spec)
}

func checkPod(path string, spec *corev1.PodSpec) (string, error) {
	if len(spec.Containers) == 0 {
		return path + ".containers", errors.New("at least one is needed")
	}
	lists := []struct {
		name       string
		containers []corev1.Container
	}{{"initContainers", spec.InitContainers}, {"containers", spec.Containers}}
	for _, l := range lists {
		for i := range l.containers {
			r := &l.containers[i].Resources
			at := fmt.Sprintf("%s.%s[%d].resources", path, l.name, i)
			if field, err := checkAmounts(at+".requests", r.Requests); err != nil {
				return field, err
			}
			if field, err := checkAmounts(at+".limits", r.Limits); err != nil {
				return field, err
			}
		}
	}
	if field, err := checkAmounts(path+".overhead", spec.Overhead); err != nil {
		return field, err
	}
	if r := spec.Resources; r != nil {
		if field, err := checkAmounts(path+".resources.requests", r.Requests); err != nil {
			return field, err
		}
		return checkAmounts(path+".resources.limits", r.Limits)
	}
	return "", nil
}

func checkAmounts(path string, list corev1.ResourceList) (string, error) {
	for _, name := range slices.Sorted(maps.Keys(list)) {
		if q := list[name]; q.Sign() < 0 {
			return path + "." + string(name), errors.New("must not be negative")
		}
	}
	return "", nil
}

// checkRequirements says what the CRD's rules say about operators and values.
func checkRequirements(list []v1alpha1.Requirement) (string, error) {
	for i, r := range list {
		at := fmt.Sprintf("spec.requirements[%d]", i)
		if r.Key == "" {
			return at + ".key", errors.New("is missing")
		}
		switch r.Operator {
		case v1alpha1.OperatorIn, v1alpha1.OperatorNotIn:
			if len(r.Values) == 0 {
				return at + ".values", fmt.Errorf("operator %s needs at least one", r.Operator)
			}
		case v1alpha1.OperatorExists, v1alpha1.OperatorDoesNotExist:
			if len(r.Values) > 0 {
				return at + ".values", fmt.Errorf("operator %s takes none", r.Operator)
			}
		case v1alpha1.OperatorGt, v1alpha1.OperatorLt:
			if len(r.Values) != 1 {
				return at + ".values", fmt.Errorf("operator %s takes exactly one", r.Operator)
			}
			if _, err := strconv.ParseUint(r.Values[0], 10, 63); err != nil {
				return at + ".values[0]", fmt.Errorf("%q is not a whole number", r.Values[0])
			}
		default:
			return at + ".operator", fmt.Errorf("%q is none of In, NotIn, Exists, DoesNotExist, Gt, Lt", r.Operator)
		}
	}
	return "", nil
}
