package provisioner

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// TestANodeThatNoClaimSeesOffIsReleased: once two sweeps have found it and EC2
// says that its instance is gone, and never before.
func TestANodeThatNoClaimSeesOffIsReleased(t *testing.T) {
	d := newDeathbed(t)
	claim := &v1alpha1.NodeClaim{}
	node := &corev1.Node{}
	get := func(name string, o client.Object) bool {
		return d.api.Get(t.Context(), client.ObjectKey{Name: name}, o) == nil
	}
	sweep := func() {
		t.Helper()
		var claims v1alpha1.NodeClaimList
		if err := d.api.List(t.Context(), &claims); err != nil {
			t.Fatal(err)
		}
		d.watch(t)
		if err := d.loops.fleet.releaseStrays(t.Context(), claims.Items); err != nil {
			t.Fatal(err)
		}
	}
	get(dyingNode, node)
	if err := d.api.Delete(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	d.state = ec2.StateTerminated
	for range 3 {
		sweep()
	}
	if !get(dyingNode, node) {
		t.Fatal("released while its claim is there")
	}
	get("a", claim)
	controllerutil.RemoveFinalizer(claim, v1alpha1.Finalizer)
	if err := d.api.Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	d.state = ec2.StateRunning
	for range 3 {
		sweep()
	}
	if !get(dyingNode, node) {
		t.Fatal("released while its instance runs")
	}
	d.loops.fleet.strays = nil
	d.state = ec2.StateTerminated
	sweep()
	if !get(dyingNode, node) {
		t.Fatal("released at first sight")
	}
	sweep()
	if get(dyingNode, node) {
		t.Fatal("never released")
	}
	if len(d.faults) > 0 {
		t.Error(d.faults)
	}
}
