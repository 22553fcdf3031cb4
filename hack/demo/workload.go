package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/utils/ptr"
)

// workload is what a manifest asks to be run.
type workload struct {
	// name as workloadOf gives it: "Deployment default/web".
	name string
	// pods that it makes at once.
	pods int
	// spec of each.
	spec corev1.PodSpec
}

// readManifests reads the objects of manifest files, in order. An object
// without a namespace stays so.
func readManifests(files []string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading an example: %w", err)
		}
		objects, err := decode(data)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		out = append(out, objects...)
	}
	return out, nil
}

// decode reads YAML or JSON with any number of documents.
func decode(data []byte) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	d := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		var u unstructured.Unstructured
		err := d.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(u.Object) > 0 {
			out = append(out, &u)
		}
	}
}

// workloads returns what the objects among them that make pods ask for.
func workloads(objects []*unstructured.Unstructured) ([]workload, error) {
	var out []workload
	for _, u := range objects {
		w := workload{name: u.GetKind() + " " + orDefault(u.GetNamespace()) + "/" + u.GetName(), pods: 1}
		var err error
		switch u.GetKind() {
		case "Pod":
			var pod corev1.Pod
			err = convert(u, &pod)
			w.spec = pod.Spec
		case "Deployment":
			var d appsv1.Deployment
			err = convert(u, &d)
			w.pods, w.spec = int(ptr.Deref(d.Spec.Replicas, 1)), d.Spec.Template.Spec
		case "Job":
			var j batchv1.Job
			err = convert(u, &j)
			w.pods, w.spec = int(ptr.Deref(j.Spec.Parallelism, 1)), j.Spec.Template.Spec
		default:
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", w.name, err)
		}
		out = append(out, w)
	}
	return out, nil
}

func convert(u *unstructured.Unstructured, into any) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, into)
}

func orDefault(namespace string) string {
	if namespace == "" {
		return corev1.NamespaceDefault
	}
	return namespace
}

// wish says in a few words what is particular about a pod: what it wants of
// its node beside a CPU and memory.
func wish(spec *corev1.PodSpec) string {
	var parts []string
	requests := corev1.ResourceList{}
	for _, c := range spec.Containers {
		for name, q := range c.Resources.Requests {
			sum := requests[name]
			sum.Add(q)
			requests[name] = sum
		}
		for name, q := range c.Resources.Limits {
			if _, ok := c.Resources.Requests[name]; !ok {
				sum := requests[name]
				sum.Add(q)
				requests[name] = sum
			}
		}
	}
	for _, name := range sortedKeys(requests) {
		q := requests[name]
		switch name {
		case corev1.ResourceCPU:
			parts = append(parts, q.String()+" CPU")
		case corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			parts = append(parts, q.String())
		default:
			parts = append(parts, q.String()+" "+string(name))
		}
	}
	for _, key := range sortedKeys(spec.NodeSelector) {
		parts = append(parts, lastPart(key)+"="+spec.NodeSelector[key])
	}
	if a := spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, e := range t.MatchExpressions {
				parts = append(parts, strings.TrimSpace(lastPart(e.Key)+" "+string(e.Operator)+" "+strings.Join(e.Values, "|")))
			}
		}
	}
	for _, c := range spec.TopologySpreadConstraints {
		parts = append(parts, fmt.Sprintf("spread over %ss, skew at most %d", lastPart(c.TopologyKey), c.MaxSkew))
	}
	return strings.Join(parts, ", ")
}

// lastPart is a label's key without its domain.
func lastPart(key string) string { return key[strings.LastIndex(key, "/")+1:] }
