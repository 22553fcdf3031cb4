package provisioner

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// seated is the pod's claim, tried when kube-scheduler tried it last, size what
// it asks for.
type seated struct {
	pod, claim string
	tried      int
	size       string
	change     func(*corev1.Pod)
}

func TestSeatsAreOfThosePodsForWhichTheirNodeOpensInTime(t *testing.T) {
	important := func(p *corev1.Pod) { p.Spec.Priority = new(int32(10)) }
	volume := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}
	group := func(p *corev1.Pod) { p.Annotations = map[string]string{v1alpha1.AnnotationPodGroup: "g"} }
	choosy := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "fast"} }
	seated1 := func(p *corev1.Pod) { p.Status.NominatedNodeName = "node-a" }
	for name, tc := range map[string]struct {
		seats []seated
		batch string
		want  string
		order string
		room  string // of node a, where it has more than for the seats
	}{
		"those alike change seats":             {[]seated{{"p", "a", 9, "1", nil}, {"q", "b", 8, "1", nil}, {"r", "b", 7, "1", nil}}, "a b", "r→b q→b p→a", "b a", ""},
		"with those whose nodes open later":    {[]seated{{"p", "a", 9, "1", nil}, {"q", "later", 8, "1", nil}}, "a", "q→later p→a", "a", ""},
		"with those whose nodes open now":      {[]seated{{"p", "a", 8, "1", nil}, {"q", "later", 9, "1", nil}}, "a", "q→a p→later", "a", ""},
		"others do not":                        {[]seated{{"p", "a", 9, "1", nil}, {"q", "b", 8, "2", nil}}, "a b", "q→b p→a", "b a", ""},
		"the node that many wait for is first": {[]seated{{"p", "a", 1, "1", nil}, {"q", "b", 2, "1", nil}, {"r", "b", 3, "1", nil}}, "a b", "p→b q→b r→a", "b a", ""},
		"priority is first":                    {[]seated{{"p", "a", 1, "1", nil}, {"q", "b", 9, "2", important}}, "a b", "q→b p→a", "b a", ""},
		"versions are numbers":                 {[]seated{{"p", "a", 10, "1", nil}, {"q", "b", 9, "1", nil}}, "a b", "q→a p→b", "a b", ""},
		"volumes are one pod's":                {[]seated{{"p", "a", 9, "1", volume}, {"q", "b", 8, "1", volume}}, "a b", "q→b p→a", "b a", ""},
		"a group stays together":               {[]seated{{"p", "a", 9, "1", group}, {"q", "b", 8, "1", group}}, "a b", "q→b p→a", "b a", ""},
		"who has the seat already keeps it":    {[]seated{{"p", "a", 9, "1", seated1}, {"q", "b", 8, "1", nil}}, "a b", "q→b p→a", "b a", ""},
		"room that is left is taken first":     {[]seated{{"p", "a", 9, "1", nil}, {"q", "later", 8, "2", nil}, {"r", "later", 7, "3", nil}}, "a", "r→a p→a q→later", "a", "4"},
		"but not by those that ask for more":   {[]seated{{"p", "a", 9, "1", nil}, {"q", "later", 8, "2", nil}, {"r", "later", 7, "3", choosy}}, "a", "q→a p→a r→later", "a", "4"},
		"nobody waits for one":                 {[]seated{{"p", "b", 9, "1", nil}}, "a b", "p→b", "b a", ""},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuay(t, "a", "b", "later")
			for _, c := range []string{"a", "b", "later"} {
				q.book.drop(c)
			}
			if tc.room != "" {
				q.node(t, "a").Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(tc.room), corev1.ResourcePods: resource.MustParse("10")}
			}
			uids := map[types.UID]seated{}
			for _, s := range tc.seats {
				pod := podNamed(s.pod)
				pod.ResourceVersion = strconv.Itoa(s.tried)
				pod.Spec.Containers = []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(s.size)}}}}
				if s.change != nil {
					s.change(pod)
				}
				if err := q.stores.pods.GetStore().Add(pod); err != nil {
					t.Fatal(err)
				}
				uids[pod.UID] = s
				q.book.give(pod.UID, s.claim)
			}
			var batch []*v1alpha1.NodeClaim
			for _, c := range strings.Fields(tc.batch) {
				batch = append(batch, q.claims[c])
			}
			var order []string
			for _, c := range q.arrange(batch) {
				order = append(order, c.Name)
			}
			if got := strings.Join(order, " "); got != tc.order {
				t.Errorf("opened in order %s, want %s", got, tc.order)
			}
			var got []string
			for _, uid := range slices.SortedFunc(maps.Keys(uids), func(a, b types.UID) int { return uids[a].tried - uids[b].tried }) {
				claim, _ := q.book.of(uid)
				got = append(got, uids[uid].pod+"→"+claim)
			}
			slices.Sort(got)
			want := strings.Fields(tc.want)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("seats %v, want %v", got, want)
			}
		})
	}
}
