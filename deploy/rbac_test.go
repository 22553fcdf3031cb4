package deploy

import (
	"fmt"
	"go/ast"
	"maps"
	"slices"
	"strings"
	"testing"

	cmapi "github.com/cert-manager/cert-manager/pkg/apis/certmanager/v1"
	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/certs"
	"github.com/berth-dev/berth/internal/admission"
)

// need is a right that a process cannot do without, and why.
type need struct {
	why, group, resource string
	verbs                string
	// names are the only objects that it is for; none: all.
	names []string
	// own: in Berth's namespace alone.
	own bool
}

const reading = "get list watch"

var provisionerNeeds = []need{
	{why: "what may be bought", group: v1alpha1.Group, resource: "provisioners", verbs: reading},
	{why: "when pauses end; the finalizer of those whose deletion drains nodes", group: v1alpha1.Group, resource: "provisioners", verbs: "patch"},
	{why: "their conditions and sums", group: v1alpha1.Group, resource: "provisioners/status", verbs: "patch"},
	{why: "intent, finalizers, removal", group: v1alpha1.Group, resource: "nodeclaims", verbs: reading + " create patch delete"},
	{why: "launch intents and conditions", group: v1alpha1.Group, resource: "nodeclaims/status", verbs: "patch"},
	{why: "pending pods; deletion past a drain's deadline", resource: "pods", verbs: reading + " delete"},
	{why: "nominatedNodeName", resource: "pods/status", verbs: "patch"},
	{why: "immediate binding", resource: "pods/binding", verbs: "create"},
	{why: "drains", resource: "pods/eviction", verbs: "create"},
	{why: "registration, taints, finalizers, nodes ahead of their kubelets", resource: "nodes", verbs: reading + " create patch delete"},
	{why: "namespace selectors of affinities; the UID of kube-system", resource: "namespaces", verbs: reading},
	{why: "when pauses end", resource: "namespaces", verbs: "patch", names: []string{namespace}},
	{why: "volumes' zones", resource: "persistentvolumes", verbs: reading},
	{why: "pods' volumes", resource: "persistentvolumeclaims", verbs: reading},
	{why: "zones of volumes to come", group: "storage.k8s.io", resource: "storageclasses", verbs: reading},
	{why: "how many volumes a node takes", group: "storage.k8s.io", resource: "csinodes", verbs: reading},
	{why: "volumes that a drained node still holds", group: "storage.k8s.io", resource: "volumeattachments", verbs: reading},
	{why: "what each node will carry besides", group: "apps", resource: "daemonsets", verbs: reading},
	{why: "what DaemonSets' pods take besides", group: "node.k8s.io", resource: "runtimeclasses", verbs: reading},
	{why: "which DaemonSets' pods come first", group: "scheduling.k8s.io", resource: "priorityclasses", verbs: reading},
	{why: "whether a batch is complete", group: "apps", resource: "replicasets", verbs: reading},
	{why: "whether a batch is complete", group: "apps", resource: "statefulsets", verbs: reading},
	{why: "whether a batch is complete", group: "batch", resource: "jobs", verbs: reading},
	{why: "which pods spread by default", resource: "services", verbs: reading},
	{why: "which pods spread by default", resource: "replicationcontrollers", verbs: reading},
	{why: "who may block a drain", group: "policy", resource: "poddisruptionbudgets", verbs: reading},
	{why: "which pods start together", group: "scheduling.k8s.io", resource: "podgroups", verbs: reading},
	{why: "the range of Services, which kubelets are told", group: "networking.k8s.io", resource: "servicecidrs", verbs: "list"},
	{why: "events", group: "events.k8s.io", resource: "events", verbs: "create patch"},
	{why: "a lease", group: "coordination.k8s.io", resource: "leases", verbs: "create", own: true},
	{why: "its lease", group: "coordination.k8s.io", resource: "leases", verbs: "get update", names: []string{"berth-provisioner"}, own: true},
	{why: "events of leader election", resource: "events", verbs: "create patch", own: true},
	{why: "publishing offerings", resource: "configmaps", verbs: "create", own: true},
	{why: "publishing offerings", resource: "configmaps", verbs: "get update", names: []string{v1alpha1.OfferingsConfigMap}, own: true},
	{why: "the gate before nodes that open together", resource: "pods", verbs: "create", own: true},
	{why: "what was moved lately", resource: "configmaps", verbs: "get update", names: []string{v1alpha1.ConsolidationConfigMap}, own: true},
}

func webhookNeeds(mode certs.Mode) []need {
	configurations := []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"}
	needs := []need{
		{why: "what may be bought", group: v1alpha1.Group, resource: "provisioners", verbs: reading},
		{why: "what an update does to nodes", group: v1alpha1.Group, resource: "nodeclaims", verbs: reading},
		{why: "what each node will carry besides", group: "apps", resource: "daemonsets", verbs: reading},
		{why: "what DaemonSets' pods take besides", group: "node.k8s.io", resource: "runtimeclasses", verbs: reading},
		{why: "which DaemonSets' pods come first", group: "scheduling.k8s.io", resource: "priorityclasses", verbs: reading},
		{why: "what keeps nodes from being drained", group: "policy", resource: "poddisruptionbudgets", verbs: reading},
		{why: "what pods are pinned to that no Provisioner buys", resource: "nodes", verbs: reading},
		{why: "pods that share spot", resource: "pods", verbs: reading},
		{why: "what workloads were warned of", group: "events.k8s.io", resource: "events", verbs: "create patch"},
		{why: "offerings", resource: "configmaps", verbs: reading, names: []string{v1alpha1.OfferingsConfigMap}, own: true},
	}
	for _, c := range configurations {
		needs = append(needs, need{why: "who trusts it", group: "admissionregistration.k8s.io", resource: c, verbs: "get", names: []string{admission.ConfigurationName}})
	}
	if mode == certs.ModeSelf {
		for _, c := range configurations {
			needs = append(needs, need{why: "caBundle", group: "admissionregistration.k8s.io", resource: c, verbs: "patch", names: []string{admission.ConfigurationName}})
		}
		return append(needs, need{why: "its CA and certificate", resource: "secrets", verbs: "get update", names: []string{certs.SelfSecret}, own: true})
	}
	names := map[string][]string{}
	for _, o := range certs.ManagerObjects(namespace, []string{"x"}) {
		plural, _ := meta.UnsafeGuessKindToResource(o.GetObjectKind().GroupVersionKind())
		names[plural.Resource] = append(names[plural.Resource], o.GetName())
		if c, ok := o.(*cmapi.Certificate); ok && !c.Spec.IsCA {
			needs = append(needs, need{why: "the certificate", resource: "secrets", verbs: "get", names: []string{c.Spec.SecretName}, own: true})
		}
	}
	for resource, n := range names {
		needs = append(needs,
			need{why: "apply makes what is missing", group: cmapi.SchemeGroupVersion.Group, resource: resource, verbs: "create", own: true},
			need{why: "apply", group: cmapi.SchemeGroupVersion.Group, resource: resource, verbs: "patch", names: n, own: true})
	}
	return needs
}

// right is one verb on one resource, or on one object of it.
func right(own bool, group, resource, verb, name string) string {
	where := "in all namespaces"
	if own {
		where = "in its own namespace"
	}
	return fmt.Sprintf("%s %s.%s %s %s", verb, resource, group, name, where)
}

// spread multiplies verbs, resources and names out.
func spread(into map[string]bool, own bool, groups, resources, verbs, names []string) {
	if len(names) == 0 {
		names = []string{"(any)"}
	}
	for _, g := range groups {
		for _, r := range resources {
			for _, v := range verbs {
				for _, n := range names {
					into[right(own, g, r, v, n)] = true
				}
			}
		}
	}
}

// granted are the rights that a process' two roles give, and fails where they
// are bound to anybody but Berth.
func granted(t *testing.T, objects []runtime.Object, process string) []string {
	t.Helper()
	want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "berth", Namespace: namespace}}
	rights := map[string]bool{}
	for _, r := range only[*rbacv1.ClusterRole](objects) {
		if r.Name == process {
			for _, rule := range r.Rules {
				spread(rights, false, rule.APIGroups, rule.Resources, rule.Verbs, rule.ResourceNames)
			}
		}
	}
	for _, r := range only[*rbacv1.Role](objects) {
		if r.Name == process && r.Namespace == namespace {
			for _, rule := range r.Rules {
				spread(rights, true, rule.APIGroups, rule.Resources, rule.Verbs, rule.ResourceNames)
			}
		}
	}
	bindings := 0
	check := func(name string, ref rbacv1.RoleRef, kind string, subjects []rbacv1.Subject) {
		if name != process {
			return
		}
		bindings++
		if diff := cmp.Diff(want, subjects); diff != "" || ref.Name != process || ref.Kind != kind {
			t.Errorf("%s %s is bound to others:\n%s", kind, ref.Name, diff)
		}
	}
	for _, b := range only[*rbacv1.ClusterRoleBinding](objects) {
		check(b.Name, b.RoleRef, "ClusterRole", b.Subjects)
	}
	for _, b := range only[*rbacv1.RoleBinding](objects) {
		check(b.Name, b.RoleRef, "Role", b.Subjects)
	}
	if bindings != 2 {
		t.Errorf("%s has %d bindings, want a ClusterRoleBinding and a RoleBinding", process, bindings)
	}
	return slices.Sorted(maps.Keys(rights))
}

func needed(needs []need) []string {
	rights := map[string]bool{}
	for _, n := range needs {
		spread(rights, n.own, []string{n.group}, []string{n.resource}, strings.Fields(n.verbs), n.names)
	}
	return slices.Sorted(maps.Keys(rights))
}

func TestRolesGrantWhatIsNeededAndNothingElse(t *testing.T) {
	for _, mode := range []certs.Mode{certs.ModeSelf, certs.ModeCertManager} {
		t.Run("certificates from "+string(mode), func(t *testing.T) {
			objects := render(t, append(slices.Clone(required), "webhook.certMode="+string(mode)))
			if diff := cmp.Diff(needed(provisionerNeeds), granted(t, objects, "berth-provisioner")); diff != "" {
				t.Errorf("provisioner (-needed +granted):\n%s", diff)
			}
			if diff := cmp.Diff(needed(webhookNeeds(mode)), granted(t, objects, "berth-webhook")); diff != "" {
				t.Errorf("webhook (-needed +granted):\n%s", diff)
			}
			if n, m := len(only[*rbacv1.ClusterRole](objects)), len(only[*rbacv1.Role](objects)); n != 2 || m != 2 {
				t.Errorf("%d ClusterRoles and %d Roles: some are not checked here", n, m)
			}
		})
	}
}

// TestNeedsListWhatIsWatched finds the informers in the source: literals of
// Kubernetes objects in the functions that start them.
func TestNeedsListWhatIsWatched(t *testing.T) {
	for _, tc := range []struct {
		dir, function string
		needs         []need
	}{
		{"../internal/provisioner", "newStores", provisionerNeeds},
		{"../internal/admission", "Run", webhookNeeds(certs.ModeSelf)},
	} {
		watched := 0
		rights := needed(tc.needs)
		for _, f := range sources(t, tc.dir) {
			imports := importsOf(f)
			for _, d := range f.Decls {
				fun, ok := d.(*ast.FuncDecl)
				if !ok || fun.Name.Name != tc.function {
					continue
				}
				ast.Inspect(fun, func(n ast.Node) bool {
					lit, ok := n.(*ast.CompositeLit)
					if !ok {
						return true
					}
					sel, ok := lit.Type.(*ast.SelectorExpr)
					if !ok {
						return true
					}
					group, ok := apiGroup(imports[sel.X.(*ast.Ident).Name])
					if !ok {
						return true
					}
					watched++
					plural, _ := meta.UnsafeGuessKindToResource(schema.GroupVersionKind{Kind: sel.Sel.Name})
					for _, verb := range []string{"list", "watch"} {
						if !slices.ContainsFunc(rights, func(r string) bool { return strings.HasPrefix(r, verb+" "+plural.Resource+"."+group+" ") }) {
							t.Errorf("%s watches %s.%s; the table of needs does not say %s", tc.dir, plural.Resource, group, verb)
						}
					}
					return true
				})
			}
		}
		if watched < 3 {
			t.Errorf("%s: found %d watched kinds in %s: the source has changed its form", tc.dir, watched, tc.function)
		}
	}
}

// apiGroup is the API group of a package of Kubernetes or Berth types.
func apiGroup(importPath string) (string, bool) {
	switch importPath {
	case "k8s.io/api/core/v1":
		return "", true
	case "k8s.io/api/apps/v1":
		return "apps", true
	case "k8s.io/api/batch/v1":
		return "batch", true
	case "k8s.io/api/node/v1":
		return "node.k8s.io", true
	case "k8s.io/api/policy/v1":
		return "policy", true
	case "k8s.io/api/scheduling/v1", "k8s.io/api/scheduling/v1beta1":
		return "scheduling.k8s.io", true
	case "k8s.io/api/storage/v1":
		return "storage.k8s.io", true
	case "github.com/berth-dev/berth/api/v1alpha1":
		return v1alpha1.Group, true
	}
	return "", false
}
