package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// probeInterval is the time between two looks at a component that starts.
const probeInterval = 50 * time.Millisecond

// prober asks URLs of this cluster, as its administrator.
type prober struct {
	client *http.Client
	token  string
}

// newProber trusts the cluster's CA, and for the webhook's own certificate
// asks its plain health address instead.
func newProber(keys *pki) (*prober, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(keys.caCert) {
		return nil, errors.New("the CA certificate does not parse")
	}
	return &prober{
		token: keys.adminToken,
		client: &http.Client{
			Timeout: 5 * time.Second,
			Transport: &http.Transport{
				TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
				ForceAttemptHTTP2: true,
			},
		},
	}, nil
}

// ok asks once and returns nil when the answer is 200.
func (p *prober) ok(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if req.URL.Scheme == "https" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	return nil
}

// create posts an object in JSON to the API server.
func (p *prober) create(ctx context.Context, url, object string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(object))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+p.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("POST %s: %s: %s", url, resp.Status, text)
	}
	return nil
}

// wait asks until the answer is 200. It gives up when ctx ends or after limit,
// with the last answer.
func (p *prober) wait(ctx context.Context, url string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(probeInterval)
	defer tick.Stop()
	var last error
	for {
		err := p.ok(ctx, url)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err // not the echo of our own deadline
		}
		select {
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return context.Cause(ctx)
			}
			return fmt.Errorf("not ready after %s: %w", limit, errors.Join(last))
		case <-tick.C:
		}
	}
}
