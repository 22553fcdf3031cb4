package ec2

import (
	"errors"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	smithy "github.com/aws/smithy-go"

	"github.com/berth-dev/berth/internal/capacity"
)

// Kinds of CallError, for errors.Is.
var (
	// ErrThrottled: too many calls. Says nothing about capacity.
	ErrThrottled = errors.New("throttled")
	// ErrTokenMismatch: the token was used with another request before.
	ErrTokenMismatch = errors.New("token used for another request")
	// ErrNotFound: EC2 does not know the instance: gone, or too young.
	ErrNotFound = errors.New("not found")
	// ErrForeign: the instance does not carry this cluster's tags.
	ErrForeign = errors.New("not this cluster's instance")
	// ErrUnknown: no answer, or one that says nothing about the outcome.
	ErrUnknown = errors.New("outcome unknown")
	// ErrInDoubt: EC2 refuses the call, and an earlier one with the same token
	// may have launched: permissions, for example, are judged before the token is
	// looked at.
	ErrInDoubt = errors.New("refused, and an earlier call may have launched")
)

// Refusal is an offering that EC2 tried and did not give.
type Refusal struct {
	capacity.OfferingRef
	// Class is what this offering was refused for: that of the whole answer may
	// be another.
	Class Class
}

// refusals of one class.
func refusals(class Class, list ...capacity.OfferingRef) []Refusal {
	out := make([]Refusal, 0, len(list))
	for _, o := range list {
		out = append(out, Refusal{o, class})
	}
	return out
}

// Fault is a call to AWS that failed, as AWS tells it.
type Fault struct {
	// Action is the API that was called: CreateFleet.
	Action string
	// Code and Message as AWS gave them, on one line; empty when there was no answer.
	Code, Message string
	// Resource is what was refused, where the answer says so beside its message:
	// "m5.large on-demand in us-west-2a".
	Resource string

	cause error
	// whole: the call was refused as a whole, and not by a verdict in its answer.
	whole bool
}

// CapacityError: EC2 has none of what was asked for, or a quota is used up.
// It is definite: nothing was launched, and a new attempt may begin.
type CapacityError struct {
	Fault
	// Refused are the offerings that EC2 tried and could not give. It may be
	// empty: subnets without free addresses are remembered by the Cloud, and
	// the next attempt goes elsewhere.
	Refused []Refusal
	// Fix says what a person can do about a quota or a subnet; else empty.
	Fix string
}

// ConfigError: the request cannot succeed until something is changed. It is
// definite: nothing was done, and a new attempt may begin.
type ConfigError struct {
	Fault
	// Refused are offerings that the same answer said there is none of.
	Refused []Refusal
	// Fix says what to change.
	Fix string
}

// CallError is every other failure.
type CallError struct {
	Fault
	// Kind is one of the Err… values; errors.Is finds it.
	Kind error
	// Answered is true when EC2 has judged this very attempt and done nothing:
	// a throttle inside a CreateFleet answer. The same token would replay that
	// answer, so a new attempt must begin (and nothing can be doubled by it).
	Answered bool
	// Verdict is what EC2 refused the last call with, for ErrInDoubt. It counts
	// once it is known that the earlier calls launched nothing.
	Verdict error
	// Refused are offerings that the same answer said there is none of.
	Refused []Refusal
}

// Definite reports whether err says that a launch attempt is over without an
// instance, so that a new attempt can double nothing. For every other error the
// only safe thing is to repeat the same attempt.
func Definite(err error) bool {
	var (
		c *CapacityError
		f *ConfigError
		o *CallError
	)
	return errors.As(err, &c) || errors.As(err, &f) || errors.As(err, &o) && o.Answered
}

// WholeCall reports whether EC2 refused a call as a whole. Such a refusal says
// nothing about earlier calls with the same token, while a verdict inside an
// answer is about the token itself.
func WholeCall(err error) bool { return faultOf(err).whole }

// Refused returns the offerings that an error of Launch or PrepareLaunch says
// EC2 has none of, whatever else went wrong.
func Refused(err error) []Refusal {
	var (
		c *CapacityError
		f *ConfigError
		o *CallError
	)
	switch {
	case errors.As(err, &c):
		return c.Refused
	case errors.As(err, &f):
		return f.Refused
	case errors.As(err, &o):
		return o.Refused
	default:
		return nil
	}
}

// Error is one line: the action, AWS's code and words, and the fix.
func (e *CapacityError) Error() string { return e.text("no capacity", e.Fix) }

// Unwrap returns what the SDK said.
func (e *CapacityError) Unwrap() error { return e.cause }

// Error is one line: the action, AWS's code and words, and the fix.
func (e *ConfigError) Error() string { return e.text("refused", e.Fix) }

// Unwrap returns what the SDK said.
func (e *ConfigError) Unwrap() error { return e.cause }

// Error is one line: the action, AWS's code and words.
func (e *CallError) Error() string { return e.text(e.Kind.Error(), "") }

// Unwrap returns the kind and what the SDK said.
func (e *CallError) Unwrap() []error {
	if e.cause == nil {
		return []error{e.Kind}
	}
	return []error{e.Kind, e.cause}
}

// text puts a failure on one line.
func (f *Fault) text(kind, fix string) string {
	parts := []string{f.Action, kind}
	if f.Code != "" {
		parts = append(parts, f.Code)
	}
	if f.Resource != "" {
		parts = append(parts, f.Resource)
	}
	switch {
	case f.Message != "":
		parts = append(parts, f.Message)
	case f.cause != nil:
		parts = append(parts, flat(f.cause.Error()))
	}
	s := strings.Join(parts, ": ")
	if fix != "" {
		s += " (" + fix + ")"
	}
	return s
}

// fault finds AWS's own words in any error of this package.
func (f *Fault) fault() *Fault { return f }

// faulty are the three error types.
type faulty interface {
	error
	fault() *Fault
}

// scope is how far a refusal reaches.
type scope int

const (
	// scopeOffering: this type in this zone, bought this way.
	scopeOffering scope = iota
	// scopeSubnet: this subnet has no free addresses; the zone may have others.
	scopeSubnet
	// scopeQuota: a limit of the account.
	scopeQuota
)

// codeSubnetFull is AWS's code for a subnet without free addresses.
const codeSubnetFull = "InsufficientFreeAddressesInSubnet"

// codeFleetConfiguration is what EC2 says of a line whose type its zone does not
// have. Of a whole call, it speaks of the request.
const codeFleetConfiguration = "InvalidFleetConfiguration"

// refusalScopes are the codes by which EC2 says that it has none, or none for
// this account. Unsupported is among them since EC2 also answers so for a type
// that a zone has ceased to offer.
var refusalScopes = map[string]scope{
	"InsufficientInstanceCapacity":                scopeOffering,
	"InsufficientCapacity":                        scopeOffering,
	"UnfulfillableCapacity":                       scopeOffering,
	"Unsupported":                                 scopeOffering,
	codeFleetConfiguration:                        scopeOffering,
	"InsufficientVolumeCapacity":                  scopeOffering,
	"SpotMaxPriceTooLow":                          scopeOffering,
	"ReservationCapacityExceeded":                 scopeOffering,
	"InvalidCapacityReservationState.Unavailable": scopeOffering,
	codeSubnetFull:                                scopeSubnet,
	"VcpuLimitExceeded":                           scopeQuota,
	"MaxSpotInstanceCountExceeded":                scopeQuota,
	"InstanceLimitExceeded":                       scopeQuota,
}

// roomFixes say how a person makes room where more capacity of EC2's does not help.
var roomFixes = map[string]string{
	codeSubnetFull:                 "free addresses, or add subnets to ec2.subnets",
	"VcpuLimitExceeded":            "raise the account's EC2 vCPU quota for this kind of instance in Service Quotas, or lower the Provisioner's limits",
	"MaxSpotInstanceCountExceeded": "raise the account's spot instance quota in Service Quotas, or allow on-demand",
	"InstanceLimitExceeded":        "raise the account's instance quota in Service Quotas",
}

// isThrottleCode reports whether AWS says "too fast".
func isThrottleCode(code string) bool {
	_, ok := retry.DefaultThrottleErrorCodes[code]
	// A quota of fleets, not of instances: it clears as fleets finish.
	return ok || code == "MaxFleetCountExceeded"
}

// isDeniedCode reports whether the credentials are good but lack a permission.
func isDeniedCode(code string) bool {
	switch code {
	case "UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "Client.UnauthorizedOperation":
		return true
	}
	return false
}

// isCredentialCode reports whether the credentials themselves are bad.
func isCredentialCode(code string) bool {
	switch code {
	case "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch",
		"InvalidSignatureException", "ExpiredToken", "ExpiredTokenException", "RequestExpired", "OptInRequired",
		"MissingAuthenticationToken", "MissingAuthenticationTokenException", "IncompleteSignature", "InvalidAccessKeyId", "Blocked":
		return true
	}
	return false
}

// isServerCode reports whether AWS failed and did not judge the request.
func isServerCode(code string) bool {
	switch code {
	case "InternalError", "InternalFailure", "InternalServerError", "ServiceUnavailable", "Unavailable",
		"Server.InternalError", "RequestTimeout", "RequestTimeoutException":
		return true
	}
	return false
}

// remedy says what a person can do about a code that is a matter of settings.
func remedy(code, message string) string {
	switch {
	case isDeniedCode(code):
		return "allow it to the IAM role of Berth; its policy is in deploy/"
	case isCredentialCode(code):
		return "check Berth's AWS credentials and the machine's clock"
	case code == "AuthFailure.ServiceLinkedRoleCreationNotPermitted":
		return "create the role once: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com"
	case strings.HasPrefix(code, "InvalidAMIID"), strings.HasPrefix(code, "InvalidImageID"):
		return "the image is gone, foreign or not shared: check ec2.amis"
	case isArchitectureFault(code, message):
		return "the image is for another architecture: check ec2.amis, or require kubernetes.io/arch"
	case strings.HasPrefix(code, "InvalidLaunchTemplate"):
		return "the launch template is gone: Berth's own is made again, one of yours must exist: check ec2.launchTemplate"
	case strings.HasPrefix(code, "InvalidSubnet"):
		return "the subnet is gone: check ec2.subnets"
	case strings.HasPrefix(code, "InvalidGroup"), strings.HasPrefix(code, "InvalidSecurityGroup"):
		return "the security group is gone or in another VPC: check ec2.securityGroups"
	case isProfileFault(code, message):
		return "create the IAM instance profile or name another in ec2.instanceProfile; a new one takes some seconds to be known"
	case strings.HasPrefix(code, "InvalidSnapshot"), strings.HasPrefix(code, "InvalidBlockDevice"), strings.Contains(code, "KMS"), strings.HasPrefix(code, "InvalidVolume"):
		return "check ec2.blockDevices"
	case strings.HasPrefix(code, "InvalidUserData"):
		return "check ec2.userData"
	default:
		return "check the Provisioner's ec2 settings against this message"
	}
}

// isProfileFault reports whether EC2 refuses the IAM instance profile.
func isProfileFault(code, message string) bool {
	return strings.HasPrefix(code, "InvalidIamInstanceProfile") ||
		strings.HasPrefix(code, "InvalidParameter") && strings.Contains(strings.ToLower(message), "iam instance profile")
}

// translate turns what the SDK returned into one of the three error types; nil
// stays nil. It is the one place that knows AWS's error codes, together with
// the maps and predicates above.
func translate(action string, err error) error {
	if err == nil {
		return nil
	}
	var own faulty
	if errors.As(err, &own) {
		return own
	}
	f := Fault{Action: action, cause: err}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return &CallError{Fault: f, Kind: ErrUnknown}
	}
	f.Code, f.Message, f.whole = api.ErrorCode(), readable(api.ErrorMessage()), true
	status := 0
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) {
		status = answer.HTTPStatusCode()
	}
	_, refused := refusalScopes[f.Code]
	refused = refused && f.Code != codeFleetConfiguration
	switch {
	case isThrottleCode(f.Code):
		return &CallError{Fault: f, Kind: ErrThrottled}
	case refused:
		return &CapacityError{Fault: f, Fix: roomFixes[f.Code]}
	case f.Code == "IdempotentParameterMismatch":
		return &CallError{Fault: f, Kind: ErrTokenMismatch}
	case strings.HasPrefix(f.Code, "InvalidInstanceID"):
		return &CallError{Fault: f, Kind: ErrNotFound}
	case isServerCode(f.Code), status < http.StatusBadRequest, status >= http.StatusInternalServerError:
		return &CallError{Fault: f, Kind: ErrUnknown}
	default:
		return &ConfigError{Fault: f, Fix: remedy(f.Code, f.Message)}
	}
}

// isTransient reports whether the same call may well succeed later, unchanged.
func isTransient(err error) bool {
	return errors.Is(err, ErrThrottled) || errors.Is(err, ErrUnknown)
}

// faultOf returns AWS's own words, or none.
func faultOf(err error) Fault {
	var f faulty
	if errors.As(err, &f) {
		return *f.fault()
	}
	return Fault{}
}

// codeOf returns AWS's code, or "" where it gave none.
func codeOf(err error) string { return faultOf(err).Code }

// readable is AWS's message on one line, without the encoded part of an
// authorization failure: hundreds of letters that only AWS can read.
func readable(message string) string {
	message, _, _ = strings.Cut(message, "Encoded authorization failure message")
	return strings.TrimSpace(flat(message))
}

// flat puts text on one line.
func flat(s string) string { return strings.Join(strings.Fields(s), " ") }

// oneLine puts an error's text on one line.
func oneLine(err error) error {
	if s := err.Error(); strings.ContainsAny(s, "\n\r") {
		return &flatError{err}
	}
	return err
}

type flatError struct{ error }

func (e *flatError) Error() string {
	return strings.Join(strings.FieldsFunc(e.error.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
func (e *flatError) Unwrap() error { return e.error }
