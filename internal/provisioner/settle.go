package provisioner

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// standing is how far the launch of a claim without instance has come.
type standing int

const (
	// free: no launch is under way, and none can give it an instance any more.
	free standing = iota
	// sealed: its launch is recorded and EC2 may have been called.
	sealed
	// given: EC2's answer has an instance for it.
	given
	// unsure: nobody can say yet.
	unsure
)

// launchOf is a claim's standing, the lead of its launch where it is sealed,
// and the instance where it is given.
type launchOf struct {
	standing standing
	lead     *v1alpha1.NodeClaim
	inst     ec2.Instance
}

// place moves a claim without instance on: it is launched, its launch is
// repeated, or it takes what the launch gave it.
func (l *lifter) place(ctx context.Context, c *v1alpha1.NodeClaim) (ctrl.Result, bool, error) {
	if l.taken(c.Name) {
		return ctrl.Result{}, false, nil
	}
	at, err := l.look(ctx, c)
	if err != nil {
		return ctrl.Result{}, false, err
	}
	switch at.standing {
	case free:
		l.submit(c)
		return ctrl.Result{}, false, nil
	case given:
		return ctrl.Result{}, true, l.launched(ctx, c, at.inst)
	case sealed:
		l.resume(at.lead)
		return ctrl.Result{RequeueAfter: resumePause}, false, nil
	case unsure:
		return ctrl.Result{RequeueAfter: resumePause}, false, nil
	default:
		return ctrl.Result{}, false, fmt.Errorf("claim %s has standing %d", c.Name, at.standing)
	}
}

// resumePause is how long a member waits before it looks at its lead again.
const resumePause = 500 * time.Millisecond

// look finds out how far the launch of a claim has come.
func (l *lifter) look(ctx context.Context, c *v1alpha1.NodeClaim) (launchOf, error) {
	in := c.LaunchRecord()
	if in == nil {
		return launchOf{}, nil
	}
	l.mu.Lock()
	over := l.over[c.Name] == in.Attempt
	l.mu.Unlock()
	if over || givenUp(c) {
		return launchOf{}, nil
	}
	if in.Lead == "" {
		if len(in.Overrides) == 0 {
			return launchOf{}, nil // Withdrawn.
		}
		return shareOf(c, c), nil
	}
	if l.isBusy(in.Lead) {
		return launchOf{standing: unsure}, nil
	}
	if lead, ok := one[*v1alpha1.NodeClaim](l.stores.claims, in.Lead); ok {
		lead = l.written.newer(lead)
		if lead.Status.Launch != nil && lead.Status.Launch.Token == in.Token {
			return shareOf(lead.DeepCopy(), c), nil
		}
	}
	lead := &v1alpha1.NodeClaim{}
	err := l.cfg.APIReader.Get(ctx, client.ObjectKey{Name: in.Lead}, lead)
	switch {
	case apierrors.IsNotFound(err):
		return l.leadless(ctx, c)
	case err != nil:
		return launchOf{}, fmt.Errorf("reading claim %s, with which claim %s is launched: %w", in.Lead, c.Name, err)
	case lead.Status.Launch != nil && lead.Status.Launch.Token == in.Token:
		return shareOf(lead, c), nil
	case ec2.LaunchToken(l.cfg.ClusterUID, string(lead.UID), attempts(lead)+1) == in.Token:
		return launchOf{}, l.withdraw(ctx, lead, in.Token)
	default:
		return launchOf{}, nil // The lead has gone on to another launch: this one is over.
	}
}

// shareOf is what the launch that a lead records holds for a claim.
func shareOf(lead, c *v1alpha1.NodeClaim) launchOf {
	in := lead.Status.Launch
	if len(in.Overrides) == 0 {
		return launchOf{} // Withdrawn.
	}
	if len(in.Members) == 0 && lead.Name == c.Name {
		return launchOf{standing: sealed, lead: lead}
	}
	for _, m := range in.Members {
		switch {
		case m.Name != c.Name:
		case !in.Answered:
			return launchOf{standing: sealed, lead: lead}
		case m.InstanceID != "":
			return launchOf{standing: given, inst: ec2.Instance{ID: m.InstanceID, Type: m.InstanceType, Zone: m.Zone,
				CapacityType: in.CapacityType, State: ec2.StatePending, Launch: in.Token}}
		}
	}
	return launchOf{}
}

// withdraw uses up the attempt that a lead has told its members of and has not
// sealed. Who was about to seal it, before a crash or in another process, loses
// that write to the lock.
func (l *lifter) withdraw(ctx context.Context, lead *v1alpha1.NodeClaim, token string) error {
	if l.isBusy(lead.Name) {
		return fmt.Errorf("claim %s is about to be launched", lead.Name)
	}
	return l.patchStatus(ctx, lead, func(c *v1alpha1.NodeClaim) {
		c.Status.Launch = &v1alpha1.LaunchIntent{Attempt: attempts(c) + 1, Token: token, StartedAt: metav1.Now()}
	})
}

// leadless settles the launch of a claim whose lead is gone. A lead is kept for
// as long as its members need it, so that either it never called EC2, or
// somebody has removed it by force. What the launch may have made is unowned
// then: it is terminated, and once EC2 shows nothing more of it, the claim is free.
func (l *lifter) leadless(ctx context.Context, c *v1alpha1.NodeClaim) (launchOf, error) {
	in := c.LaunchRecord()
	found, err := l.cloud.Find(ctx, in.Token)
	if err != nil {
		return launchOf{}, fmt.Errorf("looking for the instances of claim %s: %w", c.Name, err)
	}
	var claims v1alpha1.NodeClaimList
	if err := l.cfg.APIReader.List(ctx, &claims); err != nil {
		return launchOf{}, fmt.Errorf("listing claims: %w", err)
	}
	owned := map[string]bool{}
	for i := range claims.Items {
		owned[claims.Items[i].Status.InstanceID] = true
	}
	left := 0
	for _, inst := range found {
		if owned[inst.ID] {
			continue
		}
		left++
		if inst.State == ec2.StateShuttingDown {
			continue
		}
		l.log.Info("terminating an instance whose launch has lost its record", "instance", inst.ID, "launch", inst.Launch)
		if err := l.cfg.Cloud.Terminate(ctx, inst.ID); err != nil {
			return launchOf{}, fmt.Errorf("terminating instance %s: %w", inst.ID, err)
		}
	}
	if left > 0 || time.Since(laterOf(in.StartedAt.Time, l.since)) < l.doubtPatience {
		return launchOf{standing: unsure}, nil
	}
	return launchOf{}, nil
}

// resume has the call of a sealed launch repeated.
func (l *lifter) resume(lead *v1alpha1.NodeClaim) {
	if !l.begin(lead.Name) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resumed = append(l.resumed, lead)
	l.rouse()
}

// joined are the lead and those of its members that are still in its launch.
func (l *lifter) joined(lead *v1alpha1.NodeClaim) []*v1alpha1.NodeClaim {
	out := []*v1alpha1.NodeClaim{lead}
	for _, m := range lead.Status.Launch.Members {
		if c, ok := one[*v1alpha1.NodeClaim](l.stores.claims, m.Name); ok && m.Name != lead.Name {
			if c = l.written.newer(c); open(c) && c.LaunchRecord().Token == lead.Status.Launch.Token {
				out = append(out, c.DeepCopy())
			}
		}
	}
	return out
}

// open reports whether a launch of the claim is recorded and has not given it
// an instance.
func open(c *v1alpha1.NodeClaim) bool { return c.LaunchRecord() != nil && c.Status.InstanceID == "" }

// givenUp reports whether a claim was given up because EC2 had refused it for good.
func givenUp(c *v1alpha1.NodeClaim) bool {
	cond := meta.FindStatusCondition(c.Status.Conditions, v1alpha1.ConditionLaunched)
	return cond != nil && (cond.Reason == reasonNoCapacity || cond.Reason == reasonRefused)
}

// settle finds out, for a claim that is being removed, whether it has an
// instance after all. A launch that others want too is carried through; one
// that nobody wants any more is not repeated for that: EC2 is asked what it has
// made, and must have had time to show it.
func (l *lifter) settle(ctx context.Context, c *v1alpha1.NodeClaim) (ctrl.Result, bool, error) {
	if l.isBusy(c.Name) {
		return ctrl.Result{RequeueAfter: resumePause}, false, nil
	}
	at, err := l.look(ctx, c)
	if err != nil {
		return ctrl.Result{}, false, err
	}
	switch at.standing {
	case free:
		return ctrl.Result{}, true, nil
	case given:
		return ctrl.Result{}, true, l.launched(ctx, c, at.inst)
	case unsure:
		return ctrl.Result{RequeueAfter: resumePause}, false, nil
	case sealed:
		return l.settleSealed(ctx, c, at.lead)
	default:
		return ctrl.Result{}, false, fmt.Errorf("claim %s has standing %d", c.Name, at.standing)
	}
}

func (l *lifter) settleSealed(ctx context.Context, c, lead *v1alpha1.NodeClaim) (ctrl.Result, bool, error) {
	again := ctrl.Result{RequeueAfter: resumePause}
	began := laterOf(lead.Status.Launch.StartedAt.Time, l.since)
	for _, m := range l.joined(lead) {
		if m.DeletionTimestamp == nil {
			l.resume(lead)
			return again, false, nil
		}
		began = laterOf(began, m.DeletionTimestamp.Time)
	}
	if lead.Name != c.Name || !l.begin(lead.Name) {
		return again, false, nil // The lead settles it for all.
	}
	defer l.end(ctx, lead)
	found, err := l.cloud.Find(ctx, lead.Status.Launch.Token)
	if err != nil {
		return ctrl.Result{}, false, fmt.Errorf("looking for the instances of claim %s: %w", c.Name, err)
	}
	size := max(1, len(lead.Status.Launch.Members))
	found = found[:min(size, len(found))]
	wait := l.patience - time.Since(began)
	switch {
	case len(found) < size && wait > 0:
		return ctrl.Result{RequeueAfter: min(wait, 5*time.Second)}, false, nil
	case len(lead.Status.Launch.Members) == 0 && len(found) == 0:
		return ctrl.Result{}, true, nil
	case len(lead.Status.Launch.Members) == 0:
		return ctrl.Result{}, true, l.launched(ctx, lead, found[0])
	}
	return again, false, l.storeAnswer(ctx, lead, found)
}

// needed reports whether another claim may still have to look at what a claim's
// status says of their launch.
func (l *lifter) needed(lead *v1alpha1.NodeClaim) bool {
	next := ec2.LaunchToken(l.cfg.ClusterUID, string(lead.UID), attempts(lead)+1)
	for _, c := range all[*v1alpha1.NodeClaim](l.stores.claims) {
		if c.Name == lead.Name || !open(c) || c.LaunchRecord().Lead != lead.Name {
			continue
		}
		if token := c.LaunchRecord().Token; token == next || lead.Status.Launch != nil && token == lead.Status.Launch.Token {
			return true
		}
	}
	return false
}
