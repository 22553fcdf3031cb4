package manifest

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/berth-dev/berth/internal/capacity"
)

// Workload says what a pod belongs to, as a person would: the Deployment
// rather than its ReplicaSet. Name is the pod's own for a pod without owner.
func Workload(p *corev1.Pod) (kind, name string) {
	o := metav1.GetControllerOfNoCopy(p)
	if o == nil {
		return "Pod", p.Name
	}
	if o.Kind == "ReplicaSet" {
		if d, ok := strings.CutSuffix(o.Name, "-"+p.Labels[appsv1.DefaultDeploymentUniqueLabelKey]); ok && d != "" {
			return "Deployment", d
		}
	}
	return o.Kind, o.Name
}

// workload is a controller for which pods are to be made.
type workload struct {
	namespace string
	owner     metav1.OwnerReference
	template  *corev1.PodTemplateSpec
	// spec of the template with the API server's defaults.
	spec corev1.PodSpec
	// labels beside the template's.
	labels map[string]string
}

func newWorkload(o Object, apiVersion, kind, name string, t *corev1.PodTemplateSpec, labels map[string]string) *workload {
	yes := true
	uid := o.GetUID()
	if uid == "" || name != o.GetName() {
		uid = types.UID(strings.ToLower(kind) + "/" + o.GetNamespace() + "/" + name)
	}
	w := &workload{
		namespace: o.GetNamespace(),
		owner:     metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: uid, Controller: &yes, BlockOwnerDeletion: &yes},
		template:  t,
		spec:      *t.Spec.DeepCopy(),
		labels:    labels,
	}
	capacity.DefaultPodSpec(&w.spec)
	return w
}

// pod makes a pod of the workload. Pods share what the planner never changes.
func (w *workload) pod(name string, labels map[string]string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       w.namespace,
			Name:            name,
			UID:             types.UID("pod/" + w.namespace + "/" + name),
			Labels:          map[string]string{},
			Annotations:     w.template.Annotations,
			OwnerReferences: []metav1.OwnerReference{w.owner},
		},
		Spec:   w.spec,
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	maps.Copy(p.Labels, w.template.Labels)
	maps.Copy(p.Labels, w.labels)
	maps.Copy(p.Labels, labels)
	return p
}

// world is what a Set amounts to once the controllers have acted.
type world struct {
	set  *Set
	pods []*corev1.Pod
	pvcs []*corev1.PersistentVolumeClaim
	// running counts unfinished pods by workload; names are all pods' names.
	running map[key]int
	names   map[types.NamespacedName]bool
	claims  map[types.NamespacedName]bool
}

// expand does what the controllers would do with the Set's workloads, and the
// API server with its pods.
func (s *Set) expand() *world {
	w := &world{set: s, running: map[key]int{}, names: map[types.NamespacedName]bool{}, claims: map[types.NamespacedName]bool{}}
	for _, c := range all[*corev1.PersistentVolumeClaim](s) {
		w.pvcs = append(w.pvcs, c.DeepCopy())
		w.claims[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}] = true
	}
	for _, p := range all[*corev1.Pod](s) {
		w.names[types.NamespacedName{Namespace: p.Namespace, Name: p.Name}] = true
		finished := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
		if finished || p.DeletionTimestamp != nil && p.Spec.NodeName == "" {
			continue
		}
		// A pod that is on its way out takes room until it is gone, but its
		// controller replaces it at once.
		if p.DeletionTimestamp == nil {
			kind, name := Workload(p)
			w.running[key{kind, p.Namespace, name}]++
		}
		p = p.DeepCopy()
		capacity.DefaultPodSpec(&p.Spec)
		if p.UID == "" {
			p.UID = types.UID("pod/" + p.Namespace + "/" + p.Name)
		}
		w.pods = append(w.pods, p)
	}
	for _, o := range s.objects {
		switch o := o.(type) {
		case *appsv1.Deployment:
			hash := templateHash(&o.Spec.Template)
			name := o.Name + "-" + hash
			wl := newWorkload(o, "apps/v1", "ReplicaSet", name, &o.Spec.Template, map[string]string{appsv1.DefaultDeploymentUniqueLabelKey: hash})
			w.replicas(wl, "Deployment", o.Name, atLeastOne(o.Spec.Replicas))
		case *appsv1.ReplicaSet:
			if !s.ofDeployment(o) {
				w.replicas(newWorkload(o, "apps/v1", "ReplicaSet", o.Name, &o.Spec.Template, nil), "ReplicaSet", o.Name, atLeastOne(o.Spec.Replicas))
			}
		case *corev1.ReplicationController:
			if o.Spec.Template != nil {
				w.replicas(newWorkload(o, "v1", "ReplicationController", o.Name, o.Spec.Template, nil), "ReplicationController", o.Name, atLeastOne(o.Spec.Replicas))
			}
		case *appsv1.StatefulSet:
			w.statefulSet(o)
		case *batchv1.Job:
			w.job(o)
		}
	}
	return w
}

func atLeastOne(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}

// ofDeployment reports whether the Set holds the Deployment that controls a
// ReplicaSet, which then speaks for it.
func (s *Set) ofDeployment(o *appsv1.ReplicaSet) bool {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil || ref.Kind != "Deployment" {
		return false
	}
	_, ok := s.index[keyOf(&appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: ref.Name}})]
	return ok
}

// replicas adds the pods that are missing.
func (w *world) replicas(wl *workload, kind, name string, want int) {
	missing := want - w.running[key{kind, wl.namespace, name}]
	for i := 0; missing > 0; i++ {
		if w.add(wl.pod(fmt.Sprintf("%s-%d", wl.owner.Name, i), nil)) {
			missing--
		}
	}
}

// add adds a pod unless there is one of its name.
func (w *world) add(p *corev1.Pod) bool {
	name := types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
	if w.names[name] {
		return false
	}
	w.names[name] = true
	w.pods = append(w.pods, p)
	return true
}

// statefulSet adds the pods that are missing, by their ordinals, and claims.
func (w *world) statefulSet(o *appsv1.StatefulSet) {
	wl := newWorkload(o, "apps/v1", "StatefulSet", o.Name, &o.Spec.Template, map[string]string{
		appsv1.ControllerRevisionHashLabelKey: o.Name + "-" + templateHash(&o.Spec.Template)})
	first := 0
	if o.Spec.Ordinals != nil {
		first = int(o.Spec.Ordinals.Start)
	}
	for i := first; i < first+atLeastOne(o.Spec.Replicas); i++ {
		name := fmt.Sprintf("%s-%d", o.Name, i)
		p := wl.pod(name, map[string]string{
			appsv1.StatefulSetPodNameLabel: name, appsv1.PodIndexLabel: strconv.Itoa(i)})
		p.Spec.Hostname = name
		claimed := map[string]bool{}
		var volumes []corev1.Volume
		for j := range o.Spec.VolumeClaimTemplates {
			t := &o.Spec.VolumeClaimTemplates[j]
			claim := t.DeepCopy()
			claim.Namespace, claim.Name = o.Namespace, t.Name+"-"+name
			w.claim(claim)
			claimed[t.Name] = true
			volumes = append(volumes, corev1.Volume{Name: t.Name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
		}
		for _, v := range wl.spec.Volumes {
			if !claimed[v.Name] {
				volumes = append(volumes, v)
			}
		}
		p.Spec.Volumes = volumes
		w.add(p)
	}
}

// claim adds a claim unless there is one of its name.
func (w *world) claim(c *corev1.PersistentVolumeClaim) {
	name := types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
	if !w.claims[name] {
		w.claims[name] = true
		w.pvcs = append(w.pvcs, c)
	}
}

// job adds as many pods as may run at once now.
func (w *world) job(o *batchv1.Job) {
	if o.Spec.Suspend != nil && *o.Spec.Suspend {
		w.set.Note("Job %s/%s is suspended: no pods", o.Namespace, o.Name)
		return
	}
	for _, c := range o.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return
		}
	}
	want := atLeastOne(o.Spec.Parallelism)
	if o.Spec.Completions != nil {
		want = min(want, int(*o.Spec.Completions-o.Status.Succeeded))
	}
	uid := string(o.UID)
	if uid == "" {
		uid = "job/" + o.Namespace + "/" + o.Name
	}
	wl := newWorkload(o, "batch/v1", "Job", o.Name, &o.Spec.Template, map[string]string{
		batchv1.JobNameLabel: o.Name, "job-name": o.Name, batchv1.ControllerUidLabel: uid, "controller-uid": uid})
	if o.Spec.CompletionMode == nil || *o.Spec.CompletionMode != batchv1.IndexedCompletion {
		w.replicas(wl, "Job", o.Name, want)
		return
	}
	missing := want - w.running[key{"Job", o.Namespace, o.Name}]
	for i := 0; missing > 0; i++ {
		index := strconv.Itoa(i)
		p := wl.pod(o.Name+"-"+index, map[string]string{batchv1.JobCompletionIndexAnnotation: index})
		p.Annotations = maps.Clone(p.Annotations)
		if p.Annotations == nil {
			p.Annotations = map[string]string{}
		}
		p.Annotations[batchv1.JobCompletionIndexAnnotation] = index
		p.Spec.Hostname = o.Name + "-" + index
		if w.add(p) {
			missing--
		}
	}
}

// templateHash stands for a template's content in names and labels.
func templateHash(t *corev1.PodTemplateSpec) string {
	h := fnv.New32a()
	// A template that was decoded can be encoded again.
	_ = json.NewEncoder(h).Encode(t)
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}
