package ec2sim

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/berth-dev/berth/internal/ec2sim/query"
)

// apiError is a refusal in AWS's words: a code, a message and a status.
type apiError struct {
	code, message string
	status        int
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// statuses of the codes that are not 400 ("Error codes for the Amazon EC2
// API"; 412 for DryRunOperation and 500 for InsufficientInstanceCapacity are
// what clients report).
var statuses = map[string]int{
	"AuthFailure":                  http.StatusUnauthorized,
	"UnauthorizedOperation":        http.StatusForbidden,
	"DryRunOperation":              http.StatusPreconditionFailed,
	"RequestLimitExceeded":         http.StatusServiceUnavailable,
	"Unavailable":                  http.StatusServiceUnavailable,
	"InternalError":                http.StatusInternalServerError,
	"InternalFailure":              http.StatusInternalServerError,
	"InsufficientInstanceCapacity": http.StatusInternalServerError,
	"ResourceNotFoundException":    http.StatusNotFound,
}

func statusOf(code string) int {
	if s, ok := statuses[code]; ok {
		return s
	}
	return http.StatusBadRequest
}

func errf(code, format string, args ...any) *apiError {
	return &apiError{code, fmt.Sprintf(format, args...), statusOf(code)}
}

// asAPIError translates any error of a handler.
func asAPIError(err error) *apiError {
	var api *apiError
	if errors.As(err, &api) {
		return api
	}
	var q *query.Error
	if errors.As(err, &q) {
		if q.Unknown {
			return errf("UnknownParameter", "%s", q.Error())
		}
		return errf("InvalidParameterValue", "%s", q.Error())
	}
	return errf("InternalError", "%s", err.Error())
}

func missing(param string) *apiError {
	return errf("MissingParameter", "The request must contain the parameter %s", param)
}

func invalidValue(param, value string) *apiError {
	return errf("InvalidParameterValue", "Value (%s) for parameter %s is invalid", value, param)
}

var errDryRun = errf("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
