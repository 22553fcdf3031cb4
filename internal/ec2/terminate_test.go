package ec2

import (
	"errors"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"pgregory.net/rapid"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2sim"
)

// TestOnlyOurOwnEnd checks D8 (reference: reliability §3.4): whatever happens to
// an instance's tags in between, it ends only by the cluster whose tags it carries
// at that moment, and once.
func TestOnlyOurOwnEnd(t *testing.T) {
	sim := newStandIn(t, func(cfg *ec2sim.Config) { cfg.TerminateDelay = time.Hour })
	ours := sim.cloud(nil)
	clouds := map[string]*Cloud{ours.cfg.ClusterUID: ours, "another": sim.cloud(func(cfg *Config) { cfg.ClusterUID = "another" })}
	uid := rapid.SampledFrom([]string{ours.cfg.ClusterUID, "another"})
	claim := newClaim("tagged", m5)
	record(t, ours, claim)
	attempt := 0
	rapid.Check(t, func(rt *rapid.T) {
		attempt++
		claim.Status.Launch.Token = LaunchToken(ours.cfg.ClusterUID, "tagged", int32(attempt))
		inst, err := one(ours.Launch(t.Context(), claim))
		if err != nil {
			t.Fatal(err)
		}
		ended := false
		for range rapid.IntRange(1, 4).Draw(rt, "times") {
			owner := uid.Draw(rt, "tag")
			_, err := ours.ec2.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{inst.ID}, Tags: tagList(map[string]string{v1alpha1.TagClusterUID: owner})})
			if err != nil {
				t.Fatal(err)
			}
			asker := uid.Draw(rt, "asks")
			before := sim.calls("ec2:TerminateInstances")
			err = clouds[asker].Terminate(t.Context(), inst.ID)
			called := sim.calls("ec2:TerminateInstances") > before
			if may := asker == owner; errors.Is(err, ErrForeign) == may || may && err != nil || called != (may && !ended) {
				rt.Fatalf("%s asks for an instance of %s that has ended (%v): %v; EC2 was called: %v", asker, owner, ended, err, called)
			}
			ended = ended || asker == owner
			got, err := ours.Instance(t.Context(), inst.ID)
			if err != nil || (got.State == StateShuttingDown) != ended {
				rt.Fatalf("it is %s, ended: %v (%v)", got.State, ended, err)
			}
		}
	})
}
