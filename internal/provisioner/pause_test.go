package provisioner

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// annotate puts annotations on the Provisioner and on Berth's namespace, as their caches
// have them.
func (y *yard) annotate(provisioner, namespace map[string]string) {
	y.t.Helper()
	pr, _ := one[*v1alpha1.Provisioner](y.stores.provisioners, "p")
	pr = pr.DeepCopy()
	pr.Annotations = provisioner
	y.provisioner(pr)
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: y.cfg.Namespace, Annotations: namespace}}
	if err := y.stores.namespace.GetStore().Add(ns); err != nil {
		y.t.Fatal(err)
	}
}

// TestWhatIsPausedByWhom: each pause stops what it names, for one Provisioner or, on
// Berth's namespace, for all; of two the longer counts.
func TestWhatIsPausedByWhom(t *testing.T) {
	in := func(y *yard, d time.Duration) string { return y.now.Add(d).Format(time.RFC3339) }
	for name, tc := range map[string]struct {
		// provisioner and namespace are paused for so long.
		key                    string
		provisioner, namespace time.Duration
		disruption, launching  time.Duration
	}{
		"nothing":                     {"", 0, 0, 0, 0},
		"launching of one":            {v1alpha1.AnnotationPauseLaunching, time.Hour, 0, 0, time.Hour},
		"launching of all":            {v1alpha1.AnnotationPauseLaunching, 0, time.Hour, 0, time.Hour},
		"disruption of all":           {v1alpha1.AnnotationPauseDisruption, 0, time.Hour, time.Hour, 0},
		"both, all for longer":        {v1alpha1.AnnotationPauseLaunching, time.Hour, 2 * time.Hour, 0, 2 * time.Hour},
		"both, the one for longer":    {v1alpha1.AnnotationPauseDisruption, 2 * time.Hour, time.Hour, 2 * time.Hour, 0},
		"a pause of all that is over": {v1alpha1.AnnotationPauseLaunching, 0, -time.Hour, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := &wants{v1alpha1.ReasonDrifted, []string{"a"}}
			y := newYard(t, 1, v1alpha1.ProvisionerSpec{}, w)
			paused := func(d time.Duration) map[string]string {
				if d == 0 {
					return nil
				}
				return map[string]string{tc.key: in(y, d)}
			}
			y.annotate(paused(tc.provisioner), paused(tc.namespace))
			pr, _ := one[*v1alpha1.Provisioner](y.stores.provisioners, "p")
			for key, want := range map[string]time.Duration{v1alpha1.AnnotationPauseDisruption: tc.disruption, v1alpha1.AnnotationPauseLaunching: tc.launching} {
				end := y.paused(key, pr, y.now)
				if end.IsZero() != (want == 0) || want > 0 && !end.Equal(y.now.Add(want)) {
					t.Errorf("%s until %s, want %s from now", key, end, want)
				}
			}
			y.turn(0)
			if out, _ := y.out(); (len(out) == 0) != (tc.disruption > 0) {
				t.Errorf("out of use: %v", out)
			}
			v := y.newView(y.now)
			y.readProvisioners(v, y.now)
			if got := v.snapshot.Provisioners[0].NotReady; strings.Contains(got, "paused") != (tc.launching > 0) {
				t.Errorf("launching: %q", got)
			}
		})
	}
}

// TestAPauseIsGivenAnEndAndTakenOff: a duration becomes the time of its end, whatever
// the pause is of and wherever it stands, and is gone when that has come.
func TestAPauseIsGivenAnEndAndTakenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		y := newYard(t, 1, v1alpha1.ProvisionerSpec{})
		y.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: y.cfg.Namespace, Annotations: map[string]string{
			v1alpha1.AnnotationPauseLaunching: "30m", "other": "stays"}}})
		pr, ns := &v1alpha1.Provisioner{}, &corev1.Namespace{}
		read := func() {
			t.Helper()
			for o, s := range map[client.Object]interface{ Add(any) error }{pr: y.stores.provisioners.GetStore(), ns: y.stores.namespace.GetStore()} {
				name := "p"
				if o == client.Object(ns) {
					name = y.cfg.Namespace
				}
				if err := y.api.Get(t.Context(), client.ObjectKey{Name: name}, o); err != nil {
					t.Fatal(err)
				}
				if err := s.Add(o.DeepCopyObject()); err != nil {
					t.Fatal(err)
				}
			}
		}
		read()
		pr.Annotations = map[string]string{v1alpha1.AnnotationPauseDisruption: "true", v1alpha1.AnnotationPauseLaunching: "false"}
		if err := y.api.Update(t.Context(), pr); err != nil {
			t.Fatal(err)
		}
		read()
		began := time.Now()
		ctx, stop := context.WithCancel(t.Context())
		go func() { _ = y.keepPauses(ctx) }()
		expect := func(at time.Duration, disruption, launching string) {
			t.Helper()
			time.Sleep(time.Until(began.Add(at)))
			synctest.Wait()
			read()
			if got := pr.Annotations[v1alpha1.AnnotationPauseDisruption]; got != disruption {
				t.Errorf("after %s disruption is paused until %q, want %q", at, got, disruption)
			}
			if got := ns.Annotations[v1alpha1.AnnotationPauseLaunching]; got != launching {
				t.Errorf("after %s launching is paused until %q, want %q", at, got, launching)
			}
			if pr.Annotations[v1alpha1.AnnotationPauseLaunching] != "false" || ns.Annotations["other"] != "stays" {
				t.Errorf("after %s: %v, %v", at, pr.Annotations, ns.Annotations)
			}
		}
		end := func(d time.Duration) string { return began.Add(pausesEvery + d).UTC().Format(time.RFC3339) }
		expect(1500*time.Millisecond, end(time.Hour), end(30*time.Minute))
		expect(10*time.Minute, end(time.Hour), end(30*time.Minute))
		expect(31*time.Minute, end(time.Hour), "")
		expect(59*time.Minute, end(time.Hour), "")
		expect(61*time.Minute, "", "")
		stop()
		synctest.Wait()
	})
}
