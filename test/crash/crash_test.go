package crash

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/internal/ec2sim"
)

const (
	launches     = 30
	terminations = 10
	// sampled is how many points of a run are tried without BERTH_CRASH=all.
	sampled = 4
)

// TestKilledAtEveryCall runs a scenario of 30 launches and 10 terminations once
// to count the calls that the provisioner makes, to AWS and to the API server.
// Then it kills the provisioner, with SIGKILL, at each of them: before the call,
// after its effect, and after its reply. Each run must end as the first one did,
// within a minute of the kill, and no invariant may break on the way.
//
// BERTH_CRASH=all tries all points. BERTH_CRASH=writes tries those after which the
// world differs: what a killed process has read, or not, dies with it, so that
// each write's effect leaves a state, and all other points leave the state of
// the write before. Else a few of all are drawn, another few each time.
// BERTH_CRASH_PART=2/4 tries the second quarter of them: parts can run side by
// side, or one after the other, each on a control plane of its own.
func TestKilledAtEveryCall(t *testing.T) {
	var calls []string
	t.Run("undisturbed", func(t *testing.T) {
		w := newWorld(t, nil)
		w.arm(0, "")
		w.scenario()
		calls, _ = w.made()
		if n := len(w.fleets); n > 3 {
			t.Errorf("%d CreateFleet calls for %d identical nodes", n, launches)
		}
	})
	if len(calls) < 200 {
		t.Fatalf("%d calls only: %v", len(calls), calls)
	}
	kinds := map[string]int{}
	for _, c := range calls {
		kinds[c]++
	}
	for _, k := range slices.Sorted(maps.Keys(kinds)) {
		what := "writes"
		if reads(k) {
			what = "reads"
		}
		t.Logf("%s %4d x %s", what, kinds[k], k)
	}
	t.Logf("%d calls of %d kinds", len(calls), len(kinds))
	points := everyPoint(len(calls))
	switch os.Getenv("BERTH_CRASH") {
	case "all":
	case "writes":
		points = slices.DeleteFunc(points, func(p point) bool {
			return p.call > 1 && (p.moment != afterEffect || reads(calls[p.call-1]))
		})
	default:
		rand.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
		points = points[:sampled]
	}
	points = part(t, points)
	slowest, struck, began := time.Duration(0), map[string]bool{}, time.Now()
	for i, p := range points {
		if i%25 == 0 && i > 0 {
			fmt.Printf("%d of %d points, %s; slowest recovery %s\n", i, len(points), time.Since(began).Round(time.Second), slowest)
		}
		t.Run(fmt.Sprintf("%s call %d", p.moment, p.call), func(t *testing.T) {
			w := newWorld(t, nil)
			w.arm(p.call, p.moment)
			w.scenario()
			_, hit := w.made()
			if hit == "" {
				return // This run needed fewer calls.
			}
			struck[string(p.moment)+" "+hit] = true
			if d := time.Since(w.killed); d > patience {
				t.Errorf("%s after the kill (%s %s)", d, p.moment, hit)
			} else {
				slowest = max(slowest, d)
			}
		})
	}
	t.Logf("%d points, %d kinds of them, slowest recovery %s", len(points), len(struck), slowest)
}

type point struct {
	call   int
	moment moment
}

func everyPoint(calls int) []point {
	var out []point
	for i := 1; i <= calls; i++ {
		for _, m := range []moment{before, afterEffect, afterReply} {
			out = append(out, point{i, m})
		}
	}
	return out
}

// part is every nth point, from the kth, where BERTH_CRASH_PART is k/n.
func part(t *testing.T, points []point) []point {
	t.Helper()
	text := os.Getenv("BERTH_CRASH_PART")
	if text == "" {
		return points
	}
	var k, n int
	if _, err := fmt.Sscanf(text, "%d/%d", &k, &n); err != nil || k < 1 || k > n {
		t.Fatalf("BERTH_CRASH_PART=%s: want 1/4 to 4/4, or the like", text)
	}
	var out []point
	for i := k - 1; i < len(points); i += n {
		out = append(out, points[i])
	}
	return out
}

// scenario launches 30 nodes and gives 10 of them back. It ends when all is as
// it should be.
func (w *world) scenario() {
	w.t.Helper()
	foreign := w.foreignInstance()
	w.create(provisioner("crash", func(p *v1alpha1.Provisioner) {
		require(corev1.LabelInstanceTypeStable, "m5.large", "c5.large", "m6i.large")(p)
		require(v1alpha1.LabelCapacityType, "on-demand")(p)
		p.Spec.TTLSecondsAfterEmpty = new(int64(1))
		p.Spec.Limits = corev1.ResourceList{v1alpha1.LimitNodes: resource.MustParse("32"), v1alpha1.LimitHourlyCost: resource.MustParse("4"), corev1.ResourceCPU: resource.MustParse("66")}
	}))
	w.create(pods("crash", launches)...)
	w.start()
	w.until("30 nodes are there", func() bool { return w.settled(launches) })

	doomed := map[string]bool{}
	list := w.podList()
	slices.SortFunc(list, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	now := int64(0)
	w.each(terminations, func(i int) error {
		return plane.Client.Delete(w.ctx, &list[i], &client.DeleteOptions{GracePeriodSeconds: &now})
	})
	for _, p := range list[:terminations] {
		doomed[p.Spec.NodeName] = true
	}
	claims := w.claims()
	w.each(len(claims), func(i int) error {
		if !doomed[claims[i].Status.NodeName] {
			return nil
		}
		return plane.Client.Delete(w.ctx, &claims[i])
	})
	w.until("10 of them are gone again", func() bool { return w.settled(launches - terminations) })
	w.report(w.look().Violations())
	for _, i := range w.state().Instances {
		if i.ID == foreign && i.State != "running" && i.State != "pending" {
			w.t.Errorf("the foreign instance is %s", i.State)
		}
	}
}

// settled reports whether n nodes are there and no more: for each a claim that
// is ready, a Node, an instance with the claim's tags, and a pod on it.
func (w *world) settled(n int) bool {
	// The watch is asked first: it costs the API server nothing.
	return w.settledIn(view, n) && w.settledIn(plane.Client, n)
}

func (w *world) settledIn(cluster client.Reader, n int) bool {
	var claims v1alpha1.NodeClaimList
	var nodes corev1.NodeList
	var list corev1.PodList
	for _, err := range []error{cluster.List(w.ctx, &claims), cluster.List(w.ctx, &nodes), cluster.List(w.ctx, &list, inNamespace)} {
		if err != nil {
			return false // The next look may succeed; none that does is a timeout.
		}
	}
	if !allUp(claims.Items, n) || len(nodes.Items) != n {
		return false
	}
	byID := map[string]ec2sim.InstanceState{}
	live := 0
	for _, i := range w.state().Instances {
		if i.State != "terminated" && i.Tags[v1alpha1.TagClusterUID] == w.uid {
			byID[i.ID] = i
			live++
		}
	}
	labels := map[string]map[string]string{}
	for _, node := range nodes.Items {
		labels[node.Name] = node.Labels
	}
	pods := map[string]int{}
	for _, p := range list.Items {
		pods[p.Spec.NodeName]++
	}
	for _, c := range claims.Items {
		i := byID[c.Status.InstanceID]
		switch {
		case i.Tags[v1alpha1.TagNodeClaimUID] != string(c.UID):
			return false
		case labels[c.Status.NodeName][corev1.LabelInstanceTypeStable] != i.Type || labels[c.Status.NodeName][v1alpha1.LabelNodeClaim] != c.Name:
			return false
		case pods[c.Status.NodeName] != 1:
			return false
		}
	}
	return live == n
}

// allUp reports whether there are n claims, all initialized and to stay.
func allUp(claims []v1alpha1.NodeClaim, n int) bool {
	return len(claims) == n && !slices.ContainsFunc(claims, func(c v1alpha1.NodeClaim) bool {
		return !meta.IsStatusConditionTrue(c.Status.Conditions, v1alpha1.ConditionInitialized) || c.DeletionTimestamp != nil
	})
}

// foreignInstance launches an instance that looks like one of ours and is of
// another cluster with the same name. Nobody may touch it.
func (w *world) foreignInstance() string {
	w.t.Helper()
	id, err := runInstance(w, map[string]string{
		v1alpha1.TagClusterPrefix + plane.ClusterName: "owned", v1alpha1.TagClusterUID: "another-cluster",
		v1alpha1.TagProvisioner: "crash", v1alpha1.TagNodeClaim: "crash-1", v1alpha1.TagNodeClaimUID: "uid-1",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// TestFiveHundredNodesAtOnce wants 500 nodes at once, and then the same with 20
// kills at random calls.
func TestFiveHundredNodesAtOnce(t *testing.T) {
	if os.Getenv("BERTH_CRASH") != "all" {
		t.Skip("takes minutes: part of make test-crash")
	}
	const nodes = 500
	for _, kills := range []int{0, 20} {
		t.Run(fmt.Sprintf("%d kills", kills), func(t *testing.T) {
			w := newWorld(t, func(c *ec2sim.Config) { c.Unthrottled = true; c.BootDelay = time.Hour })
			w.arm(0, "")
			w.create(provisioner("burst", func(p *v1alpha1.Provisioner) {
				require(corev1.LabelInstanceTypeStable, "m5.large", "c5.large", "m6i.large")(p)
				require(v1alpha1.LabelCapacityType, "on-demand")(p)
			}))
			w.start()
			w.ready("burst")
			began := time.Now()
			w.create(pods("burst", nodes)...)
			wanted := time.Now() // All of them: from here on 500 nodes are wanted at once.
			for range kills {
				w.arm(1+rand.IntN(60), []moment{before, afterEffect, afterReply}[rand.IntN(3)])
				w.until("it is killed or done", func() bool {
					_, hit := w.made()
					return hit != "" || w.launched() >= nodes
				})
			}
			w.arm(0, "")
			w.until("all are launched", func() bool { return w.launched() >= nodes })
			calls, asked, last := 0, 0, time.Time{}
			w.mu.Lock()
			for _, f := range w.fleets {
				calls, asked, last = calls+1, asked+f.count, f.at
			}
			w.mu.Unlock()
			live := w.state().Live
			t.Logf("%d instances, %d CreateFleet calls for %d, the last %s after the last pod was created and %s after the first, %d lives", live, calls, asked, last.Sub(wanted), last.Sub(began), w.starts)
			if live != nodes || len(w.claims()) != nodes {
				t.Errorf("%d instances, %d claims", live, len(w.claims()))
			}
			if kills == 0 && calls > 20 {
				t.Errorf("%d calls", calls)
			}
			if d := last.Sub(wanted); kills == 0 && d > 5*time.Second && os.Getenv("BERTH_CRASH") == "all" {
				t.Errorf("all were requested after %s", d)
			}
		})
	}
}

// launched is how many claims have an instance.
func (w *world) launched() int {
	var list v1alpha1.NodeClaimList
	if err := view.List(w.ctx, &list); err != nil {
		return 0 // The context has ended.
	}
	n := 0
	for _, c := range list.Items {
		if c.Status.InstanceID != "" {
			n++
		}
	}
	return n
}

// ready waits until a Provisioner can be bought from.
func (w *world) ready(name string) {
	w.t.Helper()
	w.until("Provisioner "+name+" is ready", func() bool {
		c := w.condition(name, v1alpha1.ConditionReady)
		return c != nil && c.Status == metav1.ConditionTrue
	})
}

// condition of a Provisioner, nil without one.
func (w *world) condition(name, kind string) *metav1.Condition {
	pr := &v1alpha1.Provisioner{}
	if err := plane.Client.Get(w.ctx, client.ObjectKey{Name: name}, pr); err != nil {
		return nil
	}
	return meta.FindStatusCondition(pr.Status.Conditions, kind)
}
