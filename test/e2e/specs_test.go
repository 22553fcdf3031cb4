package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// answerWithin is how long the API server and the webhook may look at a spec,
// whatever is in it: far below the webhook's timeout.
const answerWithin = 3 * time.Second

// tryProvisioner sends a spec in a dry run. It must be accepted, or refused for
// what is wrong with it: never by a failure of the server or the webhook.
func tryProvisioner(t interface {
	Helper()
	Fatalf(string, ...any)
}, annotations map[string]any, spec any) error {
	t.Helper()
	pr := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(), "kind": "Provisioner",
		"metadata": map[string]any{"name": "fuzzed", "annotations": annotations}, "spec": spec,
	}}
	start := time.Now()
	err := shared.Client.Create(context.Background(), pr, client.DryRunAll)
	if took := time.Since(start); took > answerWithin {
		t.Fatalf("answered after %s: %v", took, err)
	}
	switch {
	case err == nil, apierrors.IsInvalid(err), apierrors.IsBadRequest(err), apierrors.IsForbidden(err), apierrors.IsRequestEntityTooLargeError(err):
	default:
		t.Fatalf("neither accepted nor refused: %v", err)
	}
	if err != nil && strings.Contains(err.Error(), "failed calling webhook") {
		t.Fatalf("the webhook failed: %v", err)
	}
	return err
}

// TestHostileProvisionersAreRefused: what is too much, or what nobody means, is
// refused by the schema or the webhook.
func TestHostileProvisionersAreRefused(t *testing.T) {
	requirement := func(key, operator string, values ...any) map[string]any {
		r := map[string]any{"key": key, "operator": operator}
		if len(values) > 0 {
			r["values"] = values
		}
		return r
	}
	many := func(n int, f func(int) any) []any {
		out := make([]any, n)
		for i := range out {
			out[i] = f(i)
		}
		return out
	}
	for name, spec := range map[string]map[string]any{
		"ten thousand requirements":      {"requirements": many(10000, func(i int) any { return requirement(fmt.Sprintf("a%d", i), "Exists") })},
		"ten thousand values":            {"requirements": []any{requirement("a", "In", many(10000, func(i int) any { return fmt.Sprint("v", i) })...)}},
		"a key of a megabyte":            {"requirements": []any{requirement(strings.Repeat("a", 1<<20), "Exists")}},
		"a key that would cost a regexp": {"requirements": []any{requirement(strings.Repeat("a-", 150)+"!", "Exists")}},
		"a quantity that overflows":      {"limits": map[string]any{"cpu": "-9e18"}},
		"a quantity that is no number":   {"limits": map[string]any{"cpu": "NaN"}},
		"control characters":             {"labels": map[string]any{"a": "b\x1b[31m"}},
		"user data of 64 KiB":            {"ec2": map[string]any{"userData": "#!/bin/sh\n" + strings.Repeat("#", 64<<10)}},
		"user data with a NUL":           {"ec2": map[string]any{"userData": "#!/bin/sh\n\x00"}},
		"51 tags": {"ec2": map[string]any{"tags": func() map[string]any {
			m := map[string]any{}
			for i := range 51 {
				m[fmt.Sprint("t", i)] = "v"
			}
			return m
		}()}},
		"a tag of 300 characters":         {"ec2": map[string]any{"tags": map[string]any{"a": strings.Repeat("v", 300)}}},
		"a tag of AWS":                    {"ec2": map[string]any{"tags": map[string]any{"AwS:x": "v"}}},
		"a life of centuries":             {"ttlSecondsUntilExpired": int64(9999999999)},
		"an image without a name":         {"ec2": map[string]any{"amis": []any{map[string]any{"name": ""}}}},
		"an image without tags":           {"ec2": map[string]any{"amis": []any{map[string]any{"tags": map[string]any{}}}}},
		"less than no CPU":                {"kubelet": map[string]any{"systemReserved": map[string]any{"cpu": "-2"}}},
		"a volume of 100 bytes":           {"ec2": map[string]any{"blockDevices": []any{map[string]any{"deviceName": "/dev/xvda", "volumeSize": "100"}}}},
		"io1 without iops":                {"ec2": map[string]any{"blockDevices": []any{map[string]any{"deviceName": "/dev/xvda", "volumeType": "io1"}}}},
		"a group for a subnet":            {"ec2": map[string]any{"subnets": []any{map[string]any{"id": "sg-1"}}}},
		"an alias of another family":      {"ec2": map[string]any{"amis": []any{map[string]any{"alias": "bottlerocket@latest"}}}},
		"half a node":                     {"limits": map[string]any{"nodes": "2.5"}},
		"half a GPU":                      {"limits": map[string]any{"nvidia.com/gpu": "0.5"}},
		"a duration of an empty schedule": {"disruption": map[string]any{"budgets": []any{map[string]any{"nodes": "1", "schedule": "", "duration": "1h"}}}},
		"groups beside a launch template": {"ec2": map[string]any{"securityGroups": []any{map[string]any{"id": "sg-1"}}, "launchTemplate": map[string]any{"name": "t", "version": "1"}}},
		"a label by its old name":         {"labels": map[string]any{"beta.kubernetes.io/arch": "amd64"}},
		"a requirement by its old name":   {"requirements": []any{requirement("failure-domain.beta.kubernetes.io/zone", "In", "us-west-2a")}},
		"a spec that is a list":           nil,
	} {
		t.Run(name, func(t *testing.T) {
			var sent any = spec
			if spec == nil {
				sent = []any{}
			}
			if err := tryProvisioner(t, nil, sent); err == nil {
				t.Error("accepted")
			}
		})
	}
}

// TestAnyProvisionerIsAnswered sends specs made of what specs are made of, right
// and wrong, to the real API server.
func TestAnyProvisionerIsAnswered(t *testing.T) {
	text := rapid.OneOf(
		rapid.SampledFrom([]string{"", "kubernetes.io/arch", "berth.dev/instance-cpu", "berth.dev/x", "node.kubernetes.io/instance-type", "topology.kubernetes.io/zone",
			"amd64", "us-west-2a", "m5.large", "9223372036854775808", "-1", "1e400", "10%", "0 9 * * *", "* * * * * *", "TZ=x 0 0 * * *", "#!/bin/sh", "Content-Type: multipart/mixed; boundary=x\n\n--x", "al2023@latest", "\u202e", "a b"}),
		rapid.StringN(0, 20, 200),
	)
	accepted := 0
	rapid.Check(t, func(rt *rapid.T) {
		var value func(depth int) any
		value = func(depth int) any {
			kinds := 6
			if depth > 3 {
				kinds = 4
			}
			switch rapid.IntRange(0, kinds-1).Draw(rt, "kind") {
			case 0, 1:
				return text.Draw(rt, "text")
			case 2:
				return rapid.Int64().Draw(rt, "number")
			case 3:
				return rapid.SampledFrom([]any{nil, true, false, int64(0), 1.5}).Draw(rt, "literal")
			case 4:
				var out []any
				for range rapid.IntRange(0, 3).Draw(rt, "length") {
					out = append(out, value(depth+1))
				}
				return out
			default:
				out := map[string]any{}
				for range rapid.IntRange(0, 4).Draw(rt, "members") {
					key := rapid.SampledFrom([]string{"key", "operator", "values", "effect", "value", "nodes", "schedule", "duration", "timeZone", "reasons", "budgets", "enabled",
						"deadline", "maxPods", "id", "tags", "alias", "name", "cpu", "memory", "hourlyCost", "a.b/c"}).Draw(rt, "member")
					out[key] = value(depth + 1)
				}
				return out
			}
		}
		spec := map[string]any{}
		for range rapid.IntRange(0, 5).Draw(rt, "fields") {
			field := rapid.SampledFrom([]string{"requirements", "labels", "annotations", "taints", "startupTaints", "weight", "limits", "ttlSecondsAfterEmpty", "ttlSecondsUntilExpired",
				"consolidation", "disruption", "drain", "binding", "kubelet", "ec2", "unknown"}).Draw(rt, "field")
			spec[field] = value(0)
		}
		if tryProvisioner(rt, map[string]any{v1alpha1.AnnotationDeletion: rapid.SampledFrom([]string{"", "drain", "orphan", "x"}).Draw(rt, "wish")}, spec) == nil {
			accepted++
		}
	})
	if accepted == 0 {
		t.Error("no spec was accepted: the generator makes nothing but nonsense")
	}
}
