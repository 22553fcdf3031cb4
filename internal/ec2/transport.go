package ec2

import (
	"bytes"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// wideTransport lets a burst of launches reuse its connections: the default
// keeps ten open to a host.
func wideTransport(t *http.Transport) { t.MaxIdleConnsPerHost = 64 }

// wholeRequests hands net/http request bodies that are in memory as a whole.
//
// The SDK closes a request's body as soon as the answer's header is there, while
// net/http may still be about to look whether the body has ended: it then takes
// the closed body for a failed request and cuts the connection in the middle of
// the answer. Near servers are fast enough for that. net/http writes a body
// that it knows to be in memory together with the header, before any answer.
type wholeRequests struct{ next aws.HTTPClient }

// Do sends the request.
func (c wholeRequests) Do(req *http.Request) (*http.Response, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return c.next.Do(req)
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	whole := req.WithContext(req.Context())
	whole.Body = io.NopCloser(bytes.NewReader(body))
	whole.ContentLength = int64(len(body))
	return c.next.Do(whole)
}
