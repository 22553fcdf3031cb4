package provisioner

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2"
)

// lift records a launch of identical claims, then carries it out.
func (l *lifter) lift(ctx context.Context, claims []*v1alpha1.NodeClaim) {
	lead := claims[0]
	left := l.catalogue.open(lead.Spec.Provisioner.Name, lead.Spec.Offerings, time.Now())
	if len(left) == 0 {
		for _, c := range claims {
			l.retry(ctx, c, l.giveUp(ctx, c, reasonNoCapacity, noneLeft(c, l.catalogue)))
		}
		return
	}
	wish := lead.DeepCopy()
	wish.Spec.Offerings = left
	intent, err := l.cloud.PrepareLaunch(ctx, wish, len(claims))
	if err != nil {
		l.catalogue.exhausted(lead.Spec.Provisioner.Name, ec2.Refused(err), time.Now())
		for _, c := range claims {
			l.retry(ctx, c, l.cannotLaunch(ctx, c, err))
		}
		return
	}
	intent.Attempt = attempts(lead) + 1
	intent.Token = ec2.LaunchToken(l.cfg.ClusterUID, string(lead.UID), intent.Attempt)
	intent.StartedAt = metav1.Now()
	members := l.join(ctx, claims, intent)
	if len(members) > 1 {
		for _, m := range members {
			intent.Members = append(intent.Members, v1alpha1.LaunchMember{Name: m.Name})
		}
	}
	err = l.patchStatus(ctx, lead, func(c *v1alpha1.NodeClaim) {
		c.Status.Launch = intent
		setLaunching(c)
	})
	if err != nil {
		for _, c := range members { // The others have been told.
			l.retry(ctx, c, err)
		}
		return
	}
	l.metrics.batch.Observe(float64(len(members)))
	l.call(ctx, members, true)
}

// noneLeft says why a claim is given up all of whose offerings EC2 has refused.
func noneLeft(c *v1alpha1.NodeClaim, known *catalogue) string {
	text := fmt.Sprintf("EC2 has none of the %d offerings that fit", len(c.Spec.Offerings))
	if r, ok := known.lastRefusal(c.Spec.Provisioner.Name); ok {
		text += "; it last said: " + r.why
	}
	return text
}

// attempts are the launches of a claim that have been recorded.
func attempts(c *v1alpha1.NodeClaim) int32 {
	if in := c.LaunchRecord(); in != nil {
		return in.Attempt
	}
	return 0
}

func setLaunching(c *v1alpha1.NodeClaim) {
	setCondition(c, v1alpha1.ConditionLaunched, metav1.ConditionFalse, "Launching", fmt.Sprintf("attempt %d", c.Status.Launch.Attempt))
}

// join has the claims but the first store whose launch they take part in, where
// they were not created for it. It returns the lead and those that take part.
func (l *lifter) join(ctx context.Context, claims []*v1alpha1.NodeClaim, intent *v1alpha1.LaunchIntent) []*v1alpha1.NodeClaim {
	errs := make([]error, len(claims))
	each(claims[1:], memberWriters, func(i int, c *v1alpha1.NodeClaim) {
		if c.Status.Launch == nil && c.Spec.LaunchWith != nil && c.Spec.LaunchWith.Token == intent.Token {
			return
		}
		errs[i+1] = l.patchStatus(ctx, c, func(c *v1alpha1.NodeClaim) {
			c.Status.Launch = &v1alpha1.LaunchIntent{Attempt: attempts(c) + 1, Token: intent.Token, StartedAt: intent.StartedAt,
				CapacityType: intent.CapacityType, Lead: claims[0].Name}
			setLaunching(c)
		})
	})
	var joined []*v1alpha1.NodeClaim
	for i, c := range claims {
		if errs[i] != nil {
			l.retry(ctx, c, errs[i])
			continue
		}
		joined = append(joined, c)
	}
	return joined
}

// call carries out the launch that the first of the claims, its lead, records;
// the others are those of its members that are known to have joined. first: the
// record is this process's, and it has not called EC2 with it before.
func (l *lifter) call(ctx context.Context, claims []*v1alpha1.NodeClaim, first bool) {
	lead := claims[0]
	if time.Since(lead.Status.Launch.StartedAt.Time) > tokenTrust {
		l.adopt(ctx, claims, nil)
		return
	}
	got, err := l.cloud.Launch(ctx, lead)
	var call *ec2.CallError
	switch {
	case err == nil:
		l.answered(ctx, claims, got)
	case errors.Is(err, ec2.ErrTokenMismatch):
		l.adopt(ctx, claims, nil)
	case errors.As(err, &call) && errors.Is(err, ec2.ErrInDoubt):
		l.doubt(lead, true)
		l.adopt(ctx, claims, fmt.Errorf("launching claim %s: %w", lead.Name, call.Verdict))
	case ec2.Definite(err) && ec2.WholeCall(err) && !first:
		// A call before may have launched, and only its reply was lost.
		l.doubt(lead, false)
		l.adopt(ctx, claims, err)
	case ec2.Definite(err):
		l.refused(ctx, claims, err)
	case errors.Is(err, ec2.ErrThrottled):
		l.metrics.throttled.Inc()
		l.pause(ctx, lead.Name, throttlePause) // The same attempt; package ec2 sets the pace.
	default:
		l.mu.Lock()
		delete(l.doubts, lead.Name)
		l.mu.Unlock()
		l.retry(ctx, lead, fmt.Errorf("launching claim %s: %w", lead.Name, err))
	}
}

// doubt notes since when it is in doubt whether a launch whose calls EC2 refuses
// has launched. anew: a call without an answer has just been made.
func (l *lifter) doubt(lead *v1alpha1.NodeClaim, anew bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, known := l.doubts[lead.Name]; !known || anew {
		l.doubts[lead.Name] = time.Now()
	}
}

// doubtSince is when the last call can have had an effect that EC2 does not show.
func (l *lifter) doubtSince(lead *v1alpha1.NodeClaim) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return laterOf(laterOf(lead.Status.Launch.StartedAt.Time, l.since), l.doubts[lead.Name])
}

// answered stores who got which instance, then tells the members.
func (l *lifter) answered(ctx context.Context, claims []*v1alpha1.NodeClaim, got ec2.Launched) {
	lead := claims[0]
	if got.Short == nil {
		l.catalogue.exhausted(lead.Spec.Provisioner.Name, got.Refused, time.Now())
	}
	byName := map[string]ec2.Instance{lead.Name: got.Instances[0]}
	if len(lead.Status.Launch.Members) > 0 {
		if err := l.storeAnswer(ctx, lead, got.Instances); err != nil {
			l.retry(ctx, lead, err)
			return
		}
		for i, inst := range got.Instances {
			byName[lead.Status.Launch.Members[i].Name] = inst
		}
	}
	l.untilCreated()
	var none []*v1alpha1.NodeClaim
	for _, c := range claims {
		if _, ok := byName[c.Name]; !ok {
			none = append(none, c)
		}
	}
	each(claims, memberWriters, func(_ int, c *v1alpha1.NodeClaim) {
		if inst, ok := byName[c.Name]; ok {
			l.retry(ctx, c, l.launched(ctx, c, inst))
		}
	})
	if len(none) > 0 {
		l.refused(ctx, none, got.Short)
	}
}

// storeAnswer writes EC2's answer into the lead of a batch. Other hands may
// have written the lead meanwhile; its launch is only ours to write.
func (l *lifter) storeAnswer(ctx context.Context, lead *v1alpha1.NodeClaim, instances []ec2.Instance) error {
	token := lead.Status.Launch.Token
	for {
		err := l.patchStatus(ctx, lead, func(c *v1alpha1.NodeClaim) {
			c.Status.Launch.Answered = true
			for i, inst := range instances {
				m := &c.Status.Launch.Members[i]
				m.InstanceID, m.InstanceType, m.Zone = inst.ID, inst.Type, inst.Zone
			}
		})
		if !apierrors.IsConflict(err) {
			return err
		}
		if err := l.cfg.APIReader.Get(ctx, client.ObjectKeyFromObject(lead), lead); err != nil {
			return fmt.Errorf("reading claim %s: %w", lead.Name, err)
		}
		if in := lead.Status.Launch; in == nil || in.Token != token || in.Answered {
			return fmt.Errorf("storing the answer to the launch of claim %s: somebody else has", lead.Name)
		}
	}
}

// refused sorts out what it means for claims that EC2 has launched nothing for
// them. It is definite: the attempt is over.
func (l *lifter) refused(ctx context.Context, claims []*v1alpha1.NodeClaim, why error) {
	l.mu.Lock()
	for _, c := range claims {
		l.over[c.Name] = attempts(c)
		delete(l.doubts, c.Name)
	}
	l.mu.Unlock()
	name := claims[0].Spec.Provisioner.Name
	class := ec2.ClassOf(why)
	l.catalogue.exhausted(name, ec2.Refused(why), time.Now())
	// A launch template of Berth's own that somebody has deleted is made again.
	again := class == ec2.ClassTemplate && claims[0].Spec.EC2.LaunchTemplate == nil
	if !again && class != ec2.ClassCapacity {
		l.catalogue.refused(name, why, time.Now())
	}
	var badConfig *ec2.ConfigError
	throttled := errors.Is(why, ec2.ErrThrottled)
	if throttled {
		l.metrics.throttled.Inc()
	}
	l.log.Info("EC2 refused a launch", "claim", claims[0].Name, "claims", len(claims), "error", why.Error())
	for _, c := range claims {
		attempt := attempts(c)
		if errors.As(why, &badConfig) && !again || !throttled && attempt >= maxAttempts {
			l.retry(ctx, c, l.cannotLaunch(ctx, c, why))
			continue
		}
		// Attempts of one claim are spaced, so that a refusal that teaches
		// nothing does not become a hot loop.
		l.pause(ctx, c.Name, min(time.Duration(attempt-1)*200*time.Millisecond, attemptPause))
	}
}

// retry has a claim looked at again, later after each failure that follows
// another. Without an error it forgets the failures before.
func (l *lifter) retry(ctx context.Context, c *v1alpha1.NodeClaim, err error) {
	switch {
	case err == nil, apierrors.IsNotFound(err):
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.failed, c.Name)
	case apierrors.IsConflict(err):
		l.poke(ctx, c.Name, conflictPause)
	default:
		l.mu.Lock()
		n := l.failed[c.Name]
		l.failed[c.Name] = n + 1
		l.mu.Unlock()
		wait := min(retryFirst<<min(n, 10), retryMost)
		if ctx.Err() == nil {
			l.log.Error(err, "launching failed; tried again", "claim", c.Name, "in", wait.String())
		}
		l.pause(ctx, c.Name, wait)
	}
}

// adopt settles a token that EC2 no longer answers with what it launched: it was
// used with other parameters (by another version of Berth), is so old that EC2
// may have forgotten it, or EC2 refuses its calls before it looks at the token,
// with verdict. What the launch made is ours if it is there; else the verdict
// holds, or the next attempt is due. Until then the call is repeated: EC2 may
// answer after all.
func (l *lifter) adopt(ctx context.Context, claims []*v1alpha1.NodeClaim, verdict error) {
	lead := claims[0]
	found, err := l.cloud.Find(ctx, lead.Status.Launch.Token)
	if err != nil {
		l.retry(ctx, lead, fmt.Errorf("looking for the instances of claim %s: %w", lead.Name, err))
		return
	}
	size := max(1, len(lead.Status.Launch.Members))
	found = found[:min(size, len(found))]
	if len(found) == size {
		l.answered(ctx, claims, ec2.Launched{Instances: found})
		return
	}
	if wait := l.doubtPatience - time.Since(l.doubtSince(lead)); wait > 0 {
		l.pause(ctx, lead.Name, min(wait, 5*time.Second)) // Tags may lag.
		return
	}
	short := verdict
	if short == nil {
		short = &ec2.CallError{Kind: ec2.ErrUnknown, Answered: true, Fault: ec2.Fault{Action: "DescribeInstances", Message: "EC2 shows no instance of this launch"}}
	}
	if len(found) > 0 {
		l.answered(ctx, claims, ec2.Launched{Instances: found, Short: short})
		return
	}
	l.refused(ctx, claims, short)
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

const (
	// attemptPause is the longest time between two attempts of a claim.
	attemptPause = 5 * time.Second
	// throttlePause lets others go first while EC2 says "too fast".
	throttlePause = time.Second
	// retryFirst is the pause after a failure that says nothing about the
	// outcome; it doubles with each, up to retryMost.
	retryFirst = 100 * time.Millisecond
	retryMost  = 30 * time.Second
	// maxAttempts bounds the attempts of one claim before its pods are planned anew.
	maxAttempts = 10
	// tokenTrust is how long EC2 is trusted to know a ClientToken. AWS promises
	// 24 hours for RunInstances, and nothing for CreateFleet.
	tokenTrust = 12 * time.Hour
	// adoptPatience is how long EC2 is given to show an instance in a filtered list
	// when a claim goes that may have one: the sweep finds what comes later still.
	adoptPatience = 30 * time.Second
	// doubtPatience is the same when another instance is launched in its stead.
	doubtPatience = 2 * time.Minute
	// Reasons of a claim whose launch EC2 has definitely refused.
	reasonNoCapacity = "InsufficientCapacity"
	reasonRefused    = "LaunchRefused"
	// reasonNeverJoined: the instance runs, its kubelet does not report.
	reasonNeverJoined = "NeverJoined"
)
