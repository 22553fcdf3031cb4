package ec2

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// answered is what the SDK returns for an error that AWS gave.
func answered(status int, code, message string) error {
	return &smithy.OperationError{ServiceID: "EC2", OperationName: "CreateFleet", Err: &awshttp.ResponseError{
		ResponseError: &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}},
			Err: &smithy.GenericAPIError{Code: code, Message: message}}}}
}

func TestTranslate(t *testing.T) {
	tests := map[string]struct {
		err      error
		kind     error  // of a CallError
		as       string // capacity, config or call
		definite bool
		says     string
	}{
		"the request bucket is empty":                      {err: answered(503, "RequestLimitExceeded", "Request limit exceeded."), as: "call", kind: ErrThrottled},
		"too many fleets is a matter of waiting":           {err: answered(400, "MaxFleetCountExceeded", "quota"), as: "call", kind: ErrThrottled},
		"no capacity, though the status says server error": {err: answered(500, "InsufficientInstanceCapacity", "We currently do not have"), as: "capacity", definite: true},
		"a quota says how it is raised":                    {err: answered(400, "VcpuLimitExceeded", "more vCPU capacity"), as: "capacity", definite: true, says: "Service Quotas"},
		"a permission is missing, and the cipher is left out": {
			err: answered(403, "UnauthorizedOperation", "You are not authorized.\nEncoded authorization failure message: XyZ123"), as: "config", definite: true, says: "policy is in deploy/"},
		"an image is gone":                      {err: answered(400, "InvalidAMIID.NotFound", "The image id '[ami-1]' does not exist"), as: "config", definite: true, says: "ec2.amis"},
		"a profile is not there":                {err: answered(400, "InvalidParameterValue", "Value (x) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"), as: "config", definite: true, says: "ec2.instanceProfile"},
		"a template is gone":                    {err: answered(400, "InvalidLaunchTemplateId.NotFound", "gone"), as: "config", definite: true, says: "ec2.launchTemplate"},
		"another code that refuses the request": {err: answered(400, "InvalidKeyPair.NotFound", "no key"), as: "config", definite: true, says: "no key"},
		"the token was used for something else": {err: answered(400, "IdempotentParameterMismatch", "Arguments"), as: "call", kind: ErrTokenMismatch},
		"an instance that EC2 does not know":    {err: answered(400, "InvalidInstanceID.NotFound", "The instance ID 'i-1' does not exist"), as: "call", kind: ErrNotFound},
		"EC2 failed":                            {err: answered(500, "InternalError", "An internal error has occurred"), as: "call", kind: ErrUnknown},
		"EC2 failed in a way of its own":        {err: answered(502, "Whatever", "proxy"), as: "call", kind: ErrUnknown},
		"no answer came":                        {err: &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}, as: "call", kind: ErrUnknown, says: "connection reset"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := translate("CreateFleet", tc.err)
			var (
				c *CapacityError
				f *ConfigError
				o *CallError
			)
			got := ""
			switch {
			case errors.As(err, &c):
				got = "capacity"
			case errors.As(err, &f):
				got = "config"
			case errors.As(err, &o):
				got = "call"
			}
			if got != tc.as {
				t.Fatalf("got a %s error, want %s: %v", got, tc.as, err)
			}
			if tc.kind != nil && !errors.Is(err, tc.kind) {
				t.Errorf("not %v: %v", tc.kind, err)
			}
			if Definite(err) != tc.definite {
				t.Errorf("Definite = %v, want %v", Definite(err), tc.definite)
			}
			if !errors.Is(err, tc.err) {
				t.Errorf("the SDK's error is lost from %v", err)
			}
			if s := err.Error(); !strings.Contains(s, tc.says) || strings.ContainsAny(s, "\n") || strings.Contains(s, "XyZ123") {
				t.Errorf("error text: %q", s)
			}
			if again := translate("Other", err); again != err {
				t.Errorf("translated twice: %v", again)
			}
		})
	}
	if translate("X", nil) != nil {
		t.Error("nil must stay nil")
	}
}
