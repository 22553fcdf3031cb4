package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/test/cluster"
)

var requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("512Mi")}

// caller calls the webhook as an API server does: HTTP/1.1 over TLS 1.3 that it
// verifies by the caBundle.
type caller struct {
	client *http.Client
	tls    *tls.Config
	url    string
	// small and large are reviews of 2 KB and 15 KB.
	small, large []byte
}

func newCaller(ctx context.Context, c *cluster.Cluster, address string) (*caller, error) {
	var m registrationv1.MutatingWebhookConfiguration
	if err := c.Client.Get(ctx, client.ObjectKey{Name: "zz-berth"}, &m); err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(m.Webhooks[0].ClientConfig.CABundle)
	conf := &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}}
	w := &caller{tls: conf, url: address + "/mutate/pods?timeout=1s", client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: conf, MaxIdleConnsPerHost: 128, IdleConnTimeout: time.Minute,
	}}}
	var err error
	if w.small, err = review(2 << 10); err != nil {
		return nil, err
	}
	w.large, err = review(15 << 10)
	return w, err
}

// review is a pod's review of at least size bytes, filled up with environment.
func review(size int) ([]byte, error) {
	pod := benchPod("default", "web-5dd649bbfb-x2x7k")
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	for {
		raw, err := json.Marshal(pod)
		if err != nil {
			return nil, err
		}
		doc, err := json.Marshal(&admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
			Request: &admissionv1.AdmissionRequest{UID: "7f0b2c9e-4b1f-4c59-9b0c-0a8e1d0f3a11", Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"},
				Resource: metav1.GroupVersionResource{Version: "v1", Resource: "pods"}, Namespace: "default", Operation: admissionv1.Create,
				Object: runtime.RawExtension{Raw: raw}},
		})
		if err != nil || len(doc) >= size {
			return doc, err
		}
		e := &pod.Spec.Containers[0].Env
		*e = append(*e, corev1.EnvVar{Name: fmt.Sprintf("SETTING_%d", len(*e)), Value: "https://example.com/path?with=values"})
	}
}

// one calls once; anything but a hint is an error.
func (w *caller) one(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err == nil && !bytes.Contains(answer, []byte(`"patch":"`)) {
		err = fmt.Errorf("answered %s: %s", resp.Status, answer)
	}
	return err
}

// closed calls from n callers without pause.
func (w *caller) closed(ctx context.Context, length time.Duration, n int) ([]time.Duration, error) {
	return withoutPause(length, n, func() error { return w.one(ctx, w.small) })
}

// withoutPause has n workers do one thing over and over for a time, each until
// it fails, and says how long every try took.
func withoutPause(length time.Duration, n int, one func() error) ([]time.Duration, error) {
	end := time.Now().Add(length)
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for err == nil && time.Now().Before(end) {
				start := time.Now()
				err = one()
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, mine...), errors.Join(failed, err)
		})
	}
	wg.Wait()
	return all, failed
}

// openWorkers is how many calls of open can be under way.
const openWorkers = 64

// open calls at a constant rate, whatever the answers do; a call that starts late
// because others are slow has waited since it was due.
func open(length time.Duration, perSecond int, one func() error) ([]time.Duration, error) {
	n := int(length.Seconds() * float64(perSecond))
	out := make([]time.Duration, n)
	errs := make([]error, n)
	due := make(chan int, n)
	begin := time.Now()
	at := func(i int) time.Time { return begin.Add(time.Duration(i) * time.Second / time.Duration(perSecond)) }
	var wg sync.WaitGroup
	for range openWorkers {
		wg.Go(func() {
			for i := range due {
				errs[i] = one()
				out[i] = time.Since(at(i))
			}
		})
	}
	for i := range n {
		if d := time.Until(at(i)); d > 0 {
			time.Sleep(d)
		}
		due <- i
	}
	close(due)
	wg.Wait()
	return out, errors.Join(errs...)
}

// inFlight opens n calls, sends all of each but the last byte, measures the
// process and ends them. It returns RSS then and at its peak, in MiB.
func (w *caller) inFlight(ctx context.Context, n, pid int) (during, peak float64, err error) {
	u, err := url.Parse(w.url)
	if err != nil {
		return 0, 0, err
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", strings.Replace(u.RequestURI(), "timeout=1s", "timeout=30s", 1), u.Host, len(w.large))
	conns := make([]*tls.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	d := tls.Dialer{NetDialer: &net.Dialer{}, Config: w.tls}
	for range n {
		c, err := d.DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return 0, 0, err
		}
		conns = append(conns, c.(*tls.Conn))
		if _, err := io.WriteString(c, head); err != nil {
			return 0, 0, err
		}
		if _, err := c.Write(w.large[:len(w.large)-1]); err != nil {
			return 0, 0, err
		}
	}
	if during, _, err = memory(pid); err != nil {
		return 0, 0, err
	}
	for _, c := range conns {
		if _, err := c.Write(w.large[len(w.large)-1:]); err != nil {
			return 0, 0, err
		}
	}
	buf := make([]byte, 4096)
	for _, c := range conns {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
		k, err := c.Read(buf)
		if err != nil || !bytes.HasPrefix(buf[:k], []byte("HTTP/1.1 200")) {
			return 0, 0, fmt.Errorf("a call in flight was answered %q: %w", buf[:k], err)
		}
	}
	_, peak, err = memory(pid)
	return during, peak, err
}
