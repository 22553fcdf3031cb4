package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/berth-dev/berth/test/cluster"
)

// oracle watches pods from outside and knows, by label app, how many are there,
// how many of them are ready and how many must be. It shares no code with what
// it judges.
type oracle struct {
	mu   sync.Mutex
	pods map[string]state // By UID.
	apps map[string]*app
	// armed: from now on budgets are judged.
	armed bool
}

type state struct {
	app   string
	ready bool
}

type app struct {
	ready int
	// wanted pods, of which so many may be unavailable.
	wanted, unavailable int
	// least that were ready while armed.
	least int
	// missing is the integral of the unavailable pods over time, in pod seconds.
	missing float64
	at      time.Time
}

// newOracle starts to watch. budgets are the wanted pods and those that may be
// unavailable, by app.
func newOracle(ctx context.Context, c *cluster.Cluster, budgets map[string][2]int) (*oracle, error) {
	o := &oracle{pods: map[string]state{}, apps: map[string]*app{}}
	for name, b := range budgets {
		o.apps[name] = &app{wanted: b[0], unavailable: b[1]}
	}
	cfg := rest.CopyConfig(c.Config)
	cfg.ContentType = runtime.ContentTypeProtobuf
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	factory := informers.NewSharedInformerFactoryWithOptions(kube, 0, informers.WithNamespace("default"))
	pods := factory.Core().V1().Pods().Informer()
	_, err = pods.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(x any) { o.see(x, false) },
		UpdateFunc: func(_, x any) { o.see(x, false) },
		DeleteFunc: func(x any) {
			if last, ok := x.(cache.DeletedFinalStateUnknown); ok {
				x = last.Obj
			}
			o.see(x, true)
		},
	})
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), pods.HasSynced) {
		return nil, fmt.Errorf("watching pods: %w", ctx.Err())
	}
	return o, nil
}

func (o *oracle) see(x any, gone bool) {
	pod, ok := x.(*corev1.Pod)
	if !ok {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	name := pod.Labels["app"]
	a := o.apps[name]
	if a == nil {
		a = &app{}
		o.apps[name] = a
	}
	o.count(a)
	is := state{app: name}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil && !gone {
			is.ready = true
		}
	}
	was := o.pods[string(pod.UID)]
	switch {
	case is.ready && !was.ready:
		a.ready++
	case !is.ready && was.ready:
		a.ready--
	}
	if gone {
		delete(o.pods, string(pod.UID))
	} else {
		o.pods[string(pod.UID)] = is
	}
	if o.armed {
		a.least = min(a.least, a.ready)
	}
}

// count adds what was missing since the last change.
func (o *oracle) count(a *app) {
	now := time.Now()
	if o.armed && a.ready < a.wanted {
		a.missing += float64(a.wanted-a.ready) * now.Sub(a.at).Seconds()
	}
	a.at = now
}

func (o *oracle) all() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.pods)
}

func (o *oracle) ready() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, a := range o.apps {
		n += a.ready
	}
	return n
}

// arm starts to judge.
func (o *oracle) arm() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.armed = true
	for _, a := range o.apps {
		a.least, a.at, a.missing = a.ready, time.Now(), 0
	}
}

// verdict is the number of budgets that were violated, and the shortest time in
// which the budgets would have let the same disruptions happen, had each been
// used in full all the time.
func (o *oracle) verdict() (violated int, shortest time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.apps {
		o.count(a)
		if a.unavailable == 0 {
			continue
		}
		if a.least < a.wanted-a.unavailable {
			violated++
		}
		shortest = max(shortest, time.Duration(a.missing/float64(a.unavailable)*float64(time.Second)))
	}
	return violated, shortest
}
