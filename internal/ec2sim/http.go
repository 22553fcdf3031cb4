package ec2sim

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/berth-dev/berth/internal/ec2sim/query"
)

// maxBody bounds a request; EC2 refuses larger payloads too.
const maxBody = 4 << 20

// call is one request on its way through a handler.
type call struct {
	action    string
	requestID string
	now       time.Time
	dryRun    bool
	// params are what was sent, without DryRun and ClientToken: what decides
	// whether two calls with one token are the same.
	params url.Values
}

// commit is called by a mutating handler when all is checked and before
// anything changes; a dry run ends there.
func (c *call) commit() error {
	if c.dryRun {
		return errDryRun
	}
	return nil
}

// handler answers one EC2 action. It runs under the Sim's lock.
type handler func(s *Sim, c *call, form url.Values) (any, error)

func on[In any](f func(*Sim, *call, *In) (any, error)) handler {
	return func(s *Sim, c *call, form url.Values) (any, error) {
		var in In
		if err := query.Decode(form, &in); err != nil {
			return nil, err
		}
		return f(s, c, &in)
	}
}

// ec2Actions are all EC2 actions that are known.
func ec2Actions() map[string]handler {
	return map[string]handler{
		"CreateFleet":                    on((*Sim).createFleet),
		"RunInstances":                   on((*Sim).runInstances),
		"TerminateInstances":             on((*Sim).terminateInstances),
		"DescribeInstances":              on((*Sim).describeInstances),
		"DescribeInstanceStatus":         on((*Sim).describeInstanceStatus),
		"GetConsoleOutput":               on((*Sim).getConsoleOutput),
		"CreateLaunchTemplate":           on((*Sim).createLaunchTemplate),
		"CreateLaunchTemplateVersion":    on((*Sim).createLaunchTemplateVersion),
		"DescribeLaunchTemplates":        on((*Sim).describeLaunchTemplates),
		"DescribeLaunchTemplateVersions": on((*Sim).describeLaunchTemplateVersions),
		"DeleteLaunchTemplate":           on((*Sim).deleteLaunchTemplate),
		"CreateTags":                     on((*Sim).createTags),
		"DeleteTags":                     on((*Sim).deleteTags),
		"DescribeTags":                   on((*Sim).describeTags),
		"DescribeInstanceTypes":          on((*Sim).describeInstanceTypes),
		"DescribeInstanceTypeOfferings":  on((*Sim).describeInstanceTypeOfferings),
		"DescribeAvailabilityZones":      on((*Sim).describeAvailabilityZones),
		"DescribeSubnets":                on((*Sim).describeSubnets),
		"DescribeSecurityGroups":         on((*Sim).describeSecurityGroups),
		"DescribeVpcs":                   on((*Sim).describeVpcs),
		"DescribeImages":                 on((*Sim).describeImages),
		"DescribeSpotPriceHistory":       on((*Sim).describeSpotPriceHistory),
		"DescribeCapacityReservations":   on((*Sim).describeCapacityReservations),
		"CreatePlacementGroup":           on((*Sim).createPlacementGroup),
		"DescribePlacementGroups":        on((*Sim).describePlacementGroups),
	}
}

// ServeHTTP routes by protocol: the X-Amz-Target header marks the JSON
// services, a form with Action the query services, everything else is EKS's
// REST or the Sim's own.
func (s *Sim) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/healthz":
		fmt.Fprintln(w, "ok")
		return
	case strings.HasPrefix(r.URL.Path, "/_sim/"):
		s.serveAdmin(w, r)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, "the request is too large or was cut short", http.StatusRequestEntityTooLarge)
		return
	}
	wait(r.Context(), s.cfg.Latency)
	switch {
	case r.Header.Get("X-Amz-Target") != "":
		s.serveJSON(w, r, body)
	case r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/clusters/"):
		s.serveEKS(w, r)
	case r.URL.Path == "/" && r.Method == http.MethodPost:
		s.serveQuery(w, r, body)
	default:
		s.log.Warn("unknown request", zap.String("method", r.Method), zap.String("path", r.URL.Path))
		http.Error(w, "unknown request", http.StatusNotFound)
	}
}

// wait keeps an answer from being faster than AWS could be.
func wait(ctx context.Context, d time.Duration) {
	if d == 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

var credentialScope = regexp.MustCompile(`^AWS4-HMAC-SHA256 .*Credential=[^/,]+/\d{8}/([^/,]+)/([^/,]+)/aws4_request`)

// checkAuth wants a signature for this Region. The signature itself is not
// verified: there are no secrets here.
func (s *Sim) checkAuth(r *http.Request) *apiError {
	m := credentialScope.FindStringSubmatch(r.Header.Get("Authorization"))
	if m == nil {
		return errf("AuthFailure", "AWS was not able to validate the provided access credentials")
	}
	// The Pricing API lives in a few Regions only, whatever Region is priced.
	if m[1] != s.cfg.Region && m[2] != "pricing" {
		return errf("AuthFailure", "Credential should be scoped to a valid region, not '%s': this endpoint is %s", m[1], s.cfg.Region)
	}
	return nil
}

func (s *Sim) serveQuery(w http.ResponseWriter, r *http.Request, body []byte) {
	form, err := url.ParseQuery(string(body))
	action := form.Get("Action")
	s.mu.Lock()
	requestID := s.newUUID()
	var answer any
	var verdict verdict
	start := s.clock.Now()
	apiErr := s.checkAuth(r)
	if err != nil {
		apiErr = errf("MalformedQueryString", "The request body is not a form")
	}
	if apiErr == nil {
		apiErr = s.throttle(bucketOf(action, form), action, 1)
	}
	if apiErr == nil {
		verdict = s.intercept("ec2", action)
		apiErr = verdict.refuse
	}
	if apiErr == nil {
		answer, apiErr = s.answerQuery(action, requestID, form)
	}
	s.record("ec2", action, start, apiErr)
	s.mu.Unlock()
	wait(r.Context(), verdict.delay)
	if verdict.drop {
		s.log.Info("reply dropped", zap.String("action", action))
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("X-Amzn-Requestid", requestID)
	if apiErr == nil {
		text, err := query.Marshal(action, requestID, answer)
		if err == nil {
			_, _ = w.Write(text) // the client may be gone; nobody else to tell
			return
		}
		apiErr = asAPIError(err)
	}
	w.WriteHeader(apiErr.status)
	_, _ = w.Write(query.MarshalError(requestID, apiErr.code, apiErr.message))
}

func (s *Sim) answerQuery(action, requestID string, form url.Values) (any, *apiError) {
	h, ok := s.actions[action]
	if !ok {
		return nil, errf("InvalidAction", "The action %s is not valid for this web service.", action)
	}
	if v := form.Get("Version"); v != "2016-11-15" {
		return nil, errf("InvalidAction", "The action %s is not valid for version %s.", action, v)
	}
	c := &call{action: action, requestID: requestID, now: s.clock.Now(), params: url.Values{}}
	s.tick(c.now)
	form.Del("Action")
	form.Del("Version")
	switch form.Get("DryRun") {
	case "true":
		c.dryRun = true
	case "false", "":
	default:
		return nil, invalidValue("DryRun", form.Get("DryRun"))
	}
	form.Del("DryRun")
	for k, v := range form {
		if k != "ClientToken" {
			c.params[k] = v
		}
	}
	answer, err := h(s, c, form)
	if err == nil && c.dryRun {
		err = errDryRun
	}
	if err != nil {
		return nil, asAPIError(err)
	}
	return answer, nil
}

// jsonHandler answers one action of a JSON service, under the Sim's lock.
type jsonHandler func(s *Sim, body []byte) (any, error)

func onJSON[In any](f func(*Sim, *In) (any, error)) jsonHandler {
	return func(s *Sim, body []byte) (any, error) {
		var in In
		dec := json.NewDecoder(strings.NewReader(string(body)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			return nil, errf("SerializationException", "%s", err.Error())
		}
		return f(s, &in)
	}
}

func (s *Sim) serveJSON(w http.ResponseWriter, r *http.Request, body []byte) {
	target, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	service, contentType := "", "application/x-amz-json-1.1"
	handlers := map[string]jsonHandler{}
	switch target {
	case "AmazonSSM":
		service = "ssm"
		handlers["GetParameter"] = onJSON((*Sim).getParameter)
		handlers["GetParameters"] = onJSON((*Sim).getParameters)
	case "AWSPriceListService":
		service = "pricing"
		handlers["GetProducts"] = onJSON((*Sim).getProducts)
	case "AmazonSQS":
		service, contentType = "sqs", "application/x-amz-json-1.0"
	}
	s.mu.Lock()
	requestID := s.newUUID()
	start := s.clock.Now()
	s.tick(start)
	var answer any
	var verdict verdict
	apiErr := s.checkAuth(r)
	if apiErr == nil {
		verdict = s.intercept(service, action)
		apiErr = verdict.refuse
	}
	h, known := handlers[action]
	if apiErr == nil && known {
		var err error
		if answer, err = h(s, body); err != nil {
			apiErr = asAPIError(err)
		}
	}
	s.mu.Unlock()
	if apiErr == nil && !known {
		// Queues have a lock of their own, because receiving waits.
		if service == "sqs" {
			var err error
			if answer, err = s.queues.Do(r.Context(), action, body, requestHost(r)); err != nil {
				apiErr = s.queueError(w, err)
			}
		} else {
			apiErr = errf("UnknownOperationException", "%s is not known", r.Header.Get("X-Amz-Target"))
		}
	}
	s.mu.Lock()
	s.record(service, action, start, apiErr)
	s.mu.Unlock()
	wait(r.Context(), verdict.delay)
	if verdict.drop {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("X-Amzn-Requestid", requestID)
	if apiErr != nil {
		writeJSON(w, apiErr.status, map[string]string{"__type": apiErr.code, "message": apiErr.message})
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

func requestHost(r *http.Request) string {
	return "http://" + r.Host
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"__type":"InternalFailure"}`)
	}
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client may be gone; nobody else to tell
}
