// Command karpenter plans with Karpenter's scheduler what bench-planner
// -write-fifths has written, so that both are measured on the same machine with
// the same pods and instance types. It prints the pods in a second, the nodes and
// what they cost. Each node counts as the cheapest of the offerings that Karpenter
// would launch it with.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/log"

	v1 "sigs.k8s.io/karpenter/pkg/apis/v1"
	"sigs.k8s.io/karpenter/pkg/cloudprovider"
	"sigs.k8s.io/karpenter/pkg/controllers/provisioning/scheduling"
	"sigs.k8s.io/karpenter/pkg/controllers/state"
	"sigs.k8s.io/karpenter/pkg/events"
	"sigs.k8s.io/karpenter/pkg/operator/options"
	requirements "sigs.k8s.io/karpenter/pkg/scheduling"
	"sigs.k8s.io/karpenter/pkg/utils/resources"
)

// problem is what bench-planner writes.
type problem struct {
	Pods    []*corev1.Pod `json:"pods"`
	Daemons []*corev1.Pod `json:"daemons"`
	Types   []struct {
		Name        string              `json:"name"`
		Labels      map[string]string   `json:"labels"`
		Capacity    corev1.ResourceList `json:"capacity"`
		Allocatable corev1.ResourceList `json:"allocatable"`
		Offerings   []struct {
			Zone         string  `json:"zone"`
			CapacityType string  `json:"capacityType"`
			Price        float64 `json:"price"`
		} `json:"offerings"`
	} `json:"types"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: karpenter FILE, written by bench-planner -write-fifths FILE")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "karpenter:", err)
		os.Exit(1)
	}
}

func run(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var p problem
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for i, pod := range p.Pods {
		pod.UID = types.UID(strconv.Itoa(i))
		pod.Status.Phase = corev1.PodPending
	}
	its := instanceTypes(p)
	ctx := options.ToContext(context.Background(), &options.Options{PreferencePolicy: options.PreferencePolicyRespect})
	ctx = log.IntoContext(ctx, logr.Discard())
	client := fake.NewClientBuilder().WithScheme(clientgoscheme.Scheme).Build()
	pool := &v1.NodePool{}
	pool.Name = "default"
	pool.Spec.Template.Spec.NodeClassRef = &v1.NodeClassReference{Group: "karpenter.kwok.sh", Kind: "KWOKNodeClass", Name: "default"}
	byPool, pools := map[string][]*cloudprovider.InstanceType{pool.Name: its}, []*v1.NodePool{pool}
	start := time.Now()
	cluster := state.NewCluster(clock.RealClock{}, client, nil)
	topology, err := scheduling.NewTopology(ctx, client, cluster, nil, pools, byPool, p.Pods)
	if err != nil {
		return err
	}
	s := scheduling.NewScheduler(ctx, client, pools, cluster, nil, topology, byPool, p.Daemons, events.NewRecorder(&record.FakeRecorder{}),
		clock.RealClock{}, nil, nil, scheduling.NumConcurrentReconciles(2))
	results, err := s.Solve(ctx, p.Pods)
	if err != nil {
		return err
	}
	took := time.Since(start)
	cost := 0.0
	for _, c := range results.NewNodeClaims {
		cheapest := math.Inf(1)
		for _, it := range c.InstanceTypeOptions {
			for _, o := range it.Offerings.Compatible(c.Requirements) {
				cheapest = min(cheapest, o.Price)
			}
		}
		cost += cheapest
	}
	fmt.Printf("Karpenter: %d pods in %s: %.0f pods/s, %d nodes, %.2f $/h, %d pods without a place\n", len(p.Pods), took.Round(time.Millisecond),
		float64(len(p.Pods))/took.Seconds(), len(results.NewNodeClaims), cost, len(results.PodErrors))
	return nil
}

// instanceTypes are the types as Karpenter wants them: what is not allocatable is
// overhead.
func instanceTypes(p problem) []*cloudprovider.InstanceType {
	var out []*cloudprovider.InstanceType
	for _, t := range p.Types {
		it := &cloudprovider.InstanceType{Name: t.Name, Capacity: t.Capacity, Requirements: requirements.NewLabelRequirements(t.Labels),
			Overhead: &cloudprovider.InstanceTypeOverhead{KubeReserved: resources.Subtract(t.Capacity, t.Allocatable)}}
		var zones, kinds []string
		for _, o := range t.Offerings {
			zones, kinds = append(zones, o.Zone), append(kinds, o.CapacityType)
			it.Offerings = append(it.Offerings, &cloudprovider.Offering{Price: o.Price, Available: true,
				Requirements: requirements.NewLabelRequirements(map[string]string{corev1.LabelTopologyZone: o.Zone, v1.CapacityTypeLabelKey: o.CapacityType})})
		}
		slices.Sort(kinds)
		it.Requirements.Add(requirements.NewRequirement(corev1.LabelTopologyZone, corev1.NodeSelectorOpIn, zones...),
			requirements.NewRequirement(v1.CapacityTypeLabelKey, corev1.NodeSelectorOpIn, slices.Compact(kinds)...))
		out = append(out, it)
	}
	return out
}
