package provisioner

import (
	"testing"

	"github.com/berth-dev/berth/api/v1alpha1"
)

func TestOwnWriteIsReadBackUntilTheCacheCatchesUp(t *testing.T) {
	claim := func(version, node string) *v1alpha1.NodeClaim {
		c := &v1alpha1.NodeClaim{}
		c.Name, c.UID, c.ResourceVersion, c.Status.NodeName = "c", "u", version, node
		return c
	}
	var w written
	if got := w.newer(claim("9", "cached")); got.Status.NodeName != "cached" {
		t.Fatal("invented a claim")
	}
	w.note(claim("10", "own"))
	if got := w.newer(claim("9", "cached")); got.Status.NodeName != "own" {
		t.Fatal("the cache's older claim won")
	}
	if got := w.newer(claim("11", "cached")); got.Status.NodeName != "cached" {
		t.Fatal("our older claim won")
	}
	if got := w.newer(claim("9", "cached")); got.Status.NodeName != "cached" {
		t.Fatal("a claim was kept after the cache had caught up")
	}
	w.note(claim("20", "own"))
	other := claim("12", "another")
	other.UID = "v"
	if got := w.newer(other); got.Status.NodeName != "another" {
		t.Fatal("a claim of the same name was taken for the old one")
	}
}
