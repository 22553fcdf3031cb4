package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"

	registrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/berth-dev/berth/test/cluster"
)

const (
	noOpName = "no-op.bench.berth.dev"
	// noOpLabel is on the namespaces that it is called for.
	noOpLabel = "bench.berth.dev/no-op"
)

// startNoOp registers a webhook that allows every pod and changes nothing, in all
// else as the one for pods is: what it costs, any webhook costs.
func startNoOp(ctx context.Context, c *cluster.Cluster) (stop func(), err error) {
	var ours registrationv1.MutatingWebhookConfiguration
	if err := c.Client.Get(ctx, client.ObjectKey{Name: "zz-berth"}, &ours); err != nil {
		return nil, err
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		var review struct{ Request struct{ UID string } }
		if err := json.NewDecoder(req.Body).Decode(&review); err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":%q,"allowed":true}}`, review.Request.UID)
	}))
	server.EnableHTTP2 = true // As ours offers it.
	server.StartTLS()
	w := *ours.Webhooks[0].DeepCopy()
	w.Name = noOpName
	w.ClientConfig = registrationv1.WebhookClientConfig{
		URL: &server.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
	}
	w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{noOpLabel: "true"}}
	err = c.Client.Create(ctx, &registrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "zz-no-op"}, Webhooks: []registrationv1.MutatingWebhook{w},
	})
	if err != nil {
		server.Close()
		return nil, err
	}
	return server.Close, nil
}
