package main

import (
	"context"
	"fmt"
	"regexp"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// fleet deploys apps with budgets until so many nodes are full, and returns the
// oracle that judges them.
func (b *bench) fleet(ctx context.Context, apps, replicas, unavailable int, cpu string, start time.Duration) (*oracle, error) {
	budgets := map[string][2]int{}
	name := func(i int) string { return fmt.Sprintf("app-%d", i) }
	for i := range apps {
		budgets[name(i)] = [2]int{replicas, unavailable}
	}
	o, err := newOracle(ctx, b.c, budgets)
	if err != nil {
		return nil, err
	}
	for i := range apps {
		if err := b.deploy(ctx, name(i), replicas, cpu, unavailable, start); err != nil {
			return nil, err
		}
	}
	if err := b.ready(ctx, o, apps*replicas); err != nil {
		return nil, err
	}
	return o, cluster.Until(ctx, func() (bool, error) {
		claims, err := b.claims(ctx)
		for i := range claims {
			if !isReady(&claims[i]) {
				return false, nil
			}
		}
		return err == nil, err
	})
}

func isReady(c *v1alpha1.NodeClaim) bool {
	for _, x := range c.Status.Conditions {
		if x.Type == v1alpha1.ConditionReady {
			return x.Status == "True"
		}
	}
	return false
}

// acknowledgement is what a refusal asks for.
var acknowledgement = regexp.MustCompile(v1alpha1.AnnotationAcknowledge + `: "([0-9a-f]+)"`)

// driftAll: all nodes differ from their Provisioner at once, and a tenth of them
// may be on their way out at the same time.
func driftAll(ctx context.Context, b *bench) error {
	err := b.provisioner(ctx, func(s *v1alpha1.ProvisionerSpec) {
		oneType(s)
		s.Disruption = &v1alpha1.Disruption{Budgets: []v1alpha1.Budget{{Nodes: "10%"}}}
	})
	if err != nil {
		return err
	}
	// Six pods fill a node.
	apps, replicas := b.nodes/5, 30
	o, err := b.fleet(ctx, apps, replicas, 3, "1250m", time.Second)
	if err != nil {
		return err
	}
	before, err := b.claims(ctx)
	if err != nil {
		return err
	}
	old := map[string]bool{}
	for _, c := range before {
		old[c.Name] = true
	}
	o.arm()
	pr := &v1alpha1.Provisioner{}
	if err := b.c.Client.Get(ctx, client.ObjectKey{Name: "default"}, pr); err != nil {
		return err
	}
	pr.Spec.Labels = map[string]string{"generation": "two"}
	// An update that replaces all nodes is refused until it says that it means it.
	err = b.c.Client.Update(ctx, pr)
	wanted := acknowledgement.FindStringSubmatch(fmt.Sprint(err))
	if wanted == nil {
		return fmt.Errorf("the update was to be refused until it is acknowledged: %w", err)
	}
	pr.Annotations = map[string]string{v1alpha1.AnnotationAcknowledge: wanted[1]}
	start := time.Now()
	if err := b.c.Client.Update(ctx, pr); err != nil {
		return err
	}
	var first, all time.Duration
	begun := map[string]time.Duration{}
	most := 0
	err = cluster.Until(ctx, func() (bool, error) {
		claims, err := b.claims(ctx)
		if err != nil {
			return false, err
		}
		left := 0
		for _, c := range claims {
			if old[c.Name] {
				left++
			}
		}
		var nodes corev1.NodeList
		if err := b.view.List(ctx, &nodes); err != nil {
			return false, err
		}
		going := 0
		for _, n := range nodes.Items {
			for _, t := range n.Spec.Taints {
				if t.Key == v1alpha1.TaintDisrupted {
					going++
					if _, ok := begun[n.Name]; !ok {
						begun[n.Name] = time.Since(start)
					}
				}
			}
		}
		most = max(most, going)
		if left < len(old) && first == 0 {
			first = time.Since(start)
		}
		all = time.Since(start)
		return left == 0, nil
	})
	if err != nil {
		return fmt.Errorf("of %d nodes %d had begun to go: %w", len(old), len(begun), err)
	}
	earliest := all
	for _, at := range begun {
		earliest = min(earliest, at)
	}
	wave := first - earliest
	violated, _ := o.verdict()
	fmt.Printf("drift: %d nodes, %d pods, budget 10%%, boot delay %s: the canary took %.1f s, all %.1f s; 10 waves of its length are %.1f s: ratio %.2f (bar: 1.30); at most %d nodes on their way out; budgets violated: %d of %d\n",
		len(old), apps*replicas, b.boot, wave.Seconds(), (all - earliest).Seconds(), 10*wave.Seconds(), (all-earliest).Seconds()/(10*wave.Seconds()), most, violated, apps)
	if violated > 0 {
		return fmt.Errorf("%d disruption budgets were violated", violated)
	}
	return nil
}
