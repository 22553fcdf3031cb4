package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
	"github.com/berth-dev/berth/test/cluster"
)

// What is applied, in this order.
var (
	provisionerFiles = []string{"examples/provisioner-default.yaml"}
	workloadFiles    = []string{
		"examples/web-deployment.yaml", "examples/spot-zonal-deployment.yaml", "examples/batch-job.yaml",
		"examples/gpu-pod.yaml", "examples/arm64-pod.yaml", "examples/impossible-pod.yaml",
	}
)

// The parts that the story names.
const (
	web        = "Deployment default/web"
	spotZonal  = "Deployment default/spot-zonal"
	batch      = "Job default/batch"
	gpu        = "Pod default/gpu"
	arm64      = "Pod default/arm64"
	impossible = "Pod default/impossible"
)

// Deadlines, generous against a busy machine: a stage takes seconds.
const (
	readyLimit   = 30 * time.Second
	arrivalLimit = 90 * time.Second
	leaveLimit   = 30 * time.Second
	removalLimit = 90 * time.Second
)

// demo is one run.
type demo struct {
	out *printer
	// bin is the folder of Berth's programs, keep leaves the cluster running.
	bin  string
	keep bool
	// hurry is closed when the user asks a second time to stop.
	hurry   <-chan struct{}
	started time.Time

	c *cluster.Cluster
	j *journal
	k kube
	// zero is what the feed counts from: when the workloads are applied.
	zero time.Time

	manifests struct {
		provisioners, workloads []*unstructured.Unstructured
		wanted                  []workload
	}
	plan   *forecast
	passed int
	failed []check
}

// judge prints a check and counts it.
func (d *demo) judge(checks ...check) {
	for _, c := range checks {
		d.out.result(c)
		if len(c.problems) == 0 {
			d.passed++
		} else {
			d.failed = append(d.failed, c)
		}
	}
}

// part begins a part of the story, and says when.
func (d *demo) part(text string) {
	at := fmt.Sprintf("%.1f s", time.Since(d.started).Seconds())
	d.out.heading(bold, fmt.Sprintf("%-*s%s", width-len(at), text, at))
}

// tell prints news.
func (d *demo) tell(news []moment) {
	for _, l := range feedLines(news, d.zero) {
		d.out.line(plain, l)
	}
}

// expect awaits a state, and counts its coming as a check. Only the end of
// the context is an error: what failed is told, and the story goes on.
func (d *demo) expect(ctx context.Context, name string, limit time.Duration, missing func(*world) string) error {
	begin := time.Now()
	err := d.j.await(ctx, limit, d.tell, missing)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c := check{name: fmt.Sprintf("%s (%.1f s)", name, time.Since(begin).Seconds())}
	if err != nil {
		c.problems = []string{err.Error()}
	}
	d.judge(c)
	return nil
}

// run tells the story on a running cluster.
func (d *demo) run(ctx context.Context) error {
	for _, step := range []func(context.Context) error{d.forecast, d.refuse, d.provisioners, d.arrive, d.inspect, d.leave} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// read reads the manifests and checks that the story's parts are there.
func (d *demo) read() error {
	var err error
	if d.manifests.provisioners, err = readManifests(provisionerFiles); err != nil {
		return err
	}
	if d.manifests.workloads, err = readManifests(workloadFiles); err != nil {
		return err
	}
	if d.manifests.wanted, err = workloads(d.manifests.workloads); err != nil {
		return err
	}
	for _, name := range []string{web, spotZonal, batch, gpu, arm64, impossible} {
		if d.wanted(name) == nil {
			return fmt.Errorf("the examples have no %s", name)
		}
	}
	return nil
}

func (d *demo) wanted(name string) *workload {
	for i := range d.manifests.wanted {
		if d.manifests.wanted[i].name == name {
			return &d.manifests.wanted[i]
		}
	}
	return nil
}

// forecast asks the planner what it would buy, before anything is applied.
func (d *demo) forecast(ctx context.Context) error {
	files := slices.Concat(provisionerFiles, workloadFiles)
	d.part("What would it cost? kubectl-berth plan -f " + filepath.Dir(files[0]))
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("kubectl-berth plan took longer than %s", readyLimit))
	defer cancel()
	plan, err := runPlan(ctx, filepath.Join(d.bin, "kubectl-berth"), d.c.Region, files)
	if err != nil {
		if errors.Is(context.Cause(ctx), context.Canceled) {
			return context.Cause(ctx)
		}
		d.judge(check{name: "the planner works without a cluster", problems: []string{err.Error()}})
		return nil
	}
	d.plan = plan
	for _, l := range plan.table() {
		d.out.line(plain, "  "+l)
	}
	for _, u := range plan.Unschedulable {
		for _, r := range u.Reasons[:min(1, len(u.Reasons))] {
			d.out.para(plain, "  no place for "+u.Pod+": ", strings.TrimSuffix(r.Detail, ".")+". Fix: "+r.Fix)
		}
	}
	d.out.line(plain, fmt.Sprintf("  $%.4f/h for %d pods; no plan costs less than $%.4f/h (gap %.1f%%); found in %.0f ms",
		plan.HourlyCost, plan.Pods, plan.LowerBound, 100*plan.Gap, 1000*plan.SolveSeconds))
	pods := 0
	for _, w := range d.manifests.wanted {
		pods += w.pods
	}
	d.judge(plan.check(pods, impossible))
	return nil
}

// refusals are Provisioners with a mistake, who refuses them (the CRD's own
// rules, or the webhook what they cannot express), and the field that the
// refusal must name.
var refusals = []struct{ mistake, by, field, manifest string }{
	{"a capacity type that does not exist", "the CRD", "spec.requirements[0]", `
apiVersion: berth.dev/v1alpha1
kind: Provisioner
metadata: {name: mistaken-requirement}
spec:
  requirements:
  - {key: berth.dev/capacity-type, operator: In, values: [spto]}
`},
	{"a budget at the 25th hour", "the webhook", "spec.disruption.budgets[0].schedule", `
apiVersion: berth.dev/v1alpha1
kind: Provisioner
metadata: {name: mistaken-budget}
spec:
  disruption:
    budgets:
    - {nodes: "0", schedule: "0 25 * * *", duration: 8h}
`},
}

// refuse applies Provisioners with mistakes.
func (d *demo) refuse(ctx context.Context) error {
	d.part("A Provisioner with a mistake is refused, by the name of the field")
	for _, r := range refusals {
		c := check{name: r.by + " refuses " + r.mistake}
		objects, err := decode([]byte(r.manifest))
		if err != nil {
			return fmt.Errorf("reading the mistaken Provisioner: %w", err)
		}
		err = d.k.apply(ctx, objects[0])
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			c.fail("it was accepted")
		default:
			d.out.para(faint, "  "+objects[0].GetName()+": ", err.Error())
			if !strings.Contains(err.Error(), r.field) {
				c.fail("the message does not name %s", r.field)
			}
		}
		d.judge(c)
	}
	return nil
}

// provisioners applies the Provisioners and waits until they can be bought from.
func (d *demo) provisioners(ctx context.Context) error {
	d.part("What may be bought: " + strings.Join(provisionerFiles, ", "))
	if err := d.k.applyAll(ctx, d.manifests.provisioners); err != nil {
		return err
	}
	c := check{}
	var names []string
	wait, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("gave up after %s", readyLimit))
	defer cancel()
	for _, p := range d.manifests.provisioners {
		names = append(names, p.GetName())
		if err := cluster.WaitProvisioner(wait, d.c, p.GetName()); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			c.fail("%v", err)
		}
	}
	c.name = fmt.Sprintf("Provisioners %s are ready: subnets, security groups, images and instance profile are found", strings.Join(names, " and "))
	d.judge(c)
	return d.webhookReady(ctx)
}

// webhookReady waits until the webhook knows what can be bought, so that pods
// get hints: a dry run of a pod shows it, and leaves nothing behind.
func (d *demo) webhookReady(ctx context.Context) error {
	var pod *unstructured.Unstructured
	for _, u := range d.manifests.workloads {
		if u.GetKind() == "Pod" && "Pod "+orDefault(u.GetNamespace())+"/"+u.GetName() == arm64 {
			pod = u
		}
	}
	wait, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	c := check{name: "the webhook knows what can be bought: a dry run of a pod gets its hint"}
	err := cluster.Until(wait, func() (bool, error) {
		hint, err := d.k.hint(wait, pod)
		return hint != "", err
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		c.fail("no annotation %s within %s: %v", v1alpha1.AnnotationPlacement, readyLimit, err)
	}
	d.judge(c)
	return nil
}

// arrive applies the workloads and watches what is bought for them.
func (d *demo) arrive(ctx context.Context) error {
	var names []string
	for _, w := range d.manifests.wanted {
		names = append(names, fmt.Sprintf("%s x%d", shortName(w.name), w.pods))
	}
	d.part("Pods come: " + strings.Join(names, ", "))
	d.zero = time.Now()
	if err := d.k.applyTogether(ctx, d.manifests.workloads); err != nil {
		return err
	}
	return d.expect(ctx, "every pod that can run runs, and the one that cannot knows why", arrivalLimit, func(w *world) string {
		return stillArriving(w, d.manifests.wanted)
	})
}

// stillArriving says what is missing of the arrival of workloads.
func stillArriving(w *world, wanted []workload) string {
	for _, want := range wanted {
		pods := podsOfWorkload(w, want.name)
		if want.name == impossible {
			if len(pods) == 0 || len(w.eventsOf(pods[0].pod.UID, reasonNoBerth)) == 0 {
				return fmt.Sprintf("an event %s on %s", reasonNoBerth, want.name)
			}
			continue
		}
		ran := 0
		for _, p := range pods {
			if !p.running.IsZero() {
				ran++
			}
		}
		if ran < want.pods {
			return fmt.Sprintf("%d of %d pods of %s run", ran, want.pods, want.name)
		}
	}
	for _, c := range w.byNumber() {
		if _, ok := c.turned[v1alpha1.ConditionInitialized]; !ok && c.deleting.IsZero() {
			return fmt.Sprintf("claim %s (n%d) is not initialized", c.claim.Name, c.number)
		}
	}
	return ""
}

// inspect shows the timeline and checks everything that was bought.
func (d *demo) inspect(context.Context) error {
	d.part("What was bought, and how long each stage took, in milliseconds")
	var checks []check
	d.j.look(func(w *world) {
		rows := timeline(w)
		for i, l := range timelineTable(rows) {
			if i == 0 {
				d.out.line(faint, "  "+l)
				continue
			}
			d.out.line(plain, "  "+l)
		}
		d.out.line(plain, "")
		d.out.line(plain, "  Why, and for which pods:")
		for _, r := range rows {
			d.out.para(plain, fmt.Sprintf("  %-4s ", fmt.Sprintf("n%d", r.number)), r.why)
			d.out.para(plain, "       ", "Carries "+r.pods+".")
		}
		d.out.line(plain, "")
		for _, p := range plansOf(rows) {
			d.out.para(plain, "  Plan: ", p)
		}
		if times := timeToBound(w); len(times) > 0 {
			d.out.line(bold, fmt.Sprintf("  %d nodes at $%.4f/h; pods were bound %.1f s after their creation at the median, %.1f s at most",
				len(w.live()), w.cost(), times[len(times)/2].Seconds(), times[len(times)-1].Seconds()))
		}
		checks = d.arrivalChecks(w)
	})
	d.part("Checks")
	d.judge(checks...)
	return nil
}

func (d *demo) arrivalChecks(w *world) []check {
	var out []check
	for _, want := range d.manifests.wanted {
		if want.name != impossible {
			out = append(out, checkRunning(w, want))
			out = append(out, checkSpread(w, want)...)
		}
	}
	out = append(out, checkCapacityType(w, spotZonal, v1alpha1.CapacityTypeSpot), checkFits(w), checkInstances(w, d.c.ClusterName), checkNodes(w), checkHints(w, impossible), checkSeats(w), checkUnhostable(w, impossible))
	if d.plan != nil {
		out = append(out, d.plan.matches(w))
	}
	return out
}

// leave takes the workloads away in the ways that people do, and watches the
// nodes go.
func (d *demo) leave(ctx context.Context) error {
	d.part("Pods go: both Deployments to zero, the Job deleted")
	d.zero = time.Now()
	if err := d.scaleDown(ctx); err != nil {
		return err
	}
	err := d.expect(ctx, "the pods of "+web+" and "+spotZonal+" are gone", leaveLimit, func(w *world) string {
		for _, name := range []string{web, spotZonal, batch} {
			for _, p := range podsOfWorkload(w, name) {
				if p.gone.IsZero() {
					return p.pod.Name + " is still there"
				}
			}
		}
		return ""
	})
	if err != nil {
		return err
	}
	d.part("kubectl delete node under the GPU pod, kubectl delete nodeclaim under the arm64 pod")
	if err := d.deleteUnder(ctx); err != nil {
		return err
	}
	if err := d.expect(ctx, "every instance is terminated, every Node and NodeClaim gone", removalLimit, stillThere); err != nil {
		return err
	}
	d.part("Checks")
	var checks []check
	d.j.look(func(w *world) {
		order := check{name: fmt.Sprintf("%d nodes went in order: taint, pods gone, instance shutting down, terminated, Node and claim gone", len(w.claims))}
		for _, r := range removals(w) {
			order.problems = append(order.problems, r.disorder()...)
		}
		checks = append(checks, order, checkUnhostable(w, impossible))
	})
	checks = append(checks, d.nothingLeft(ctx), d.statusZero(ctx))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	d.judge(checks...)
	return d.k.deleteAll(ctx, d.manifests.workloads)
}

// scaleDown scales the Deployments to zero and deletes the Job.
func (d *demo) scaleDown(ctx context.Context) error {
	for _, u := range d.manifests.workloads {
		var err error
		switch u.GetKind() {
		case "Deployment":
			err = d.k.scale(ctx, u, 0)
		case "Job":
			err = d.k.deleteAll(ctx, []*unstructured.Unstructured{u})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteUnder deletes the Node under the GPU pod and the claim under the arm64
// pod, both of which still run.
func (d *demo) deleteUnder(ctx context.Context) error {
	var objects []client.Object
	d.j.look(func(w *world) {
		for _, name := range []string{gpu, arm64} {
			for _, p := range podsOfWorkload(w, name) {
				c := claimUnder(w, p)
				switch {
				case c == nil:
				case name == gpu:
					if n := w.nodeOf(c); n != nil {
						objects = append(objects, n.node.DeepCopy())
					}
				default:
					objects = append(objects, c.claim.DeepCopy())
				}
			}
		}
	})
	for _, o := range objects {
		if err := d.k.client.Delete(ctx, o); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("deleting %s: %w", o.GetName(), err)
		}
	}
	return nil
}

// stillThere says what is left of what was bought.
func stillThere(w *world) string {
	if live := w.live(); len(live) > 0 {
		return fmt.Sprintf("%d instances live, %s among them, at $%.4f/h", len(live), live[0].instance.ID, w.cost())
	}
	for _, n := range w.nodes {
		if n.gone.IsZero() {
			return "Node " + n.node.Name + " is still there"
		}
	}
	for _, c := range w.byNumber() {
		if c.gone.IsZero() {
			return "NodeClaim " + c.claim.Name + " is still there"
		}
	}
	return ""
}

// nothingLeft asks EC2 for its own count and sum.
func (d *demo) nothingLeft(ctx context.Context) check {
	var state struct {
		Live       int     `json:"live"`
		HourlyCost float64 `json:"hourlyCost"`
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	err := d.c.Sim(ctx, http.MethodGet, "state", nil, &state)
	c := check{name: fmt.Sprintf("EC2 has %d instances left, at %.2f $/h", state.Live, state.HourlyCost)}
	if err != nil {
		c.fail("%v", err)
	}
	if state.Live != 0 || state.HourlyCost != 0 {
		c.fail("none should be left")
	}
	return c
}

// statusZero checks that the Provisioners say the same.
func (d *demo) statusZero(ctx context.Context) check {
	c := check{name: "the Provisioners' status says 0 nodes at $0/h"}
	wait, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	var wrong []string
	err := cluster.Until(wait, func() (bool, error) {
		var list v1alpha1.ProvisionerList
		if err := d.k.client.List(wait, &list); err != nil {
			return false, err
		}
		wrong = nil
		for i := range list.Items {
			wrong = append(wrong, checkStatus(&list.Items[i], 0, 0)...)
		}
		return len(wrong) == 0, nil
	})
	c.problems = wrong
	if err != nil && len(wrong) == 0 {
		c.fail("%v", err)
	}
	return c
}

// farewell says how to use the cluster that is left running.
func (d *demo) farewell(dc *devcluster) {
	d.out.heading(bold, "The cluster is left running")
	for _, l := range []string{
		"  export KUBECONFIG=" + d.c.Kubeconfig,
		"  export PATH=" + d.bin + ":" + filepath.Dir(d.c.Kubectl) + ":$PATH",
		"",
		"  kubectl apply -f examples              # buy again; examples/impossible-pod.yaml will wait",
		"  kubectl get provisioners,nodeclaims,nodes",
		"  kubectl get events --field-selector reason=" + reasonNoBerth,
		"  kubectl berth plan                     # what would be bought for the pods that wait",
		"  curl -s " + d.c.EC2Endpoint + "/_sim/state   # what EC2 has",
		"",
		"  logs   " + filepath.Join(d.c.Dir, "logs"),
		fmt.Sprintf("  stop   kill %d", dc.cmd.Process.Pid),
		"  clean  rm -r " + dc.dir + "   # once it has stopped",
	} {
		d.out.line(plain, l)
	}
}

// verdict says how it went, and returns the exit status.
func (d *demo) verdict(logs string, err error) int {
	took := time.Since(d.started).Seconds()
	if err == nil && len(d.failed) == 0 {
		d.out.heading(green, fmt.Sprintf("All %d checks passed, in %.1f s.", d.passed, took))
		return 0
	}
	summary := fmt.Sprintf("%d of %d checks failed, in %.1f s.", len(d.failed), d.passed+len(d.failed), took)
	if err != nil && len(d.failed) == 0 {
		summary = fmt.Sprintf("Not finished: %d checks had passed, after %.1f s.", d.passed, took)
	}
	d.out.heading(red, summary)
	if err != nil {
		d.out.para(plain, "  - ", "stopped early: "+err.Error())
	}
	for _, c := range d.failed {
		d.out.para(plain, "  - ", c.name+": "+strings.Join(atMost(c.problems, 3), "; "))
	}
	if logs == "" {
		return 1
	}
	if _, statErr := os.Stat(logs); statErr != nil {
		return 1
	}
	for _, name := range ours {
		lines := componentErrors(logs)[name]
		if len(lines) > 0 {
			d.out.heading(bold, "The last errors of "+name)
		}
		for _, l := range lines {
			d.out.para(plain, "  ", l)
		}
	}
	d.out.line(plain, "")
	d.out.line(plain, "All logs are in "+logs)
	return 1
}
