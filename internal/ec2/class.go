package ec2

import (
	"errors"
	"strings"
)

// Class is what a refusal is about, and so who can do something about it. It is
// the reason of conditions.
type Class string

// The classes. An error that is no refusal has none.
const (
	// ClassCapacity: EC2 has none of it just now.
	ClassCapacity Class = "InsufficientCapacity"
	// ClassQuota: a limit of the account is used up.
	ClassQuota Class = "QuotaExceeded"
	// ClassAddresses: the subnets have no free address.
	ClassAddresses Class = "SubnetFull"
	// ClassDenied: Berth's role lacks a permission.
	ClassDenied Class = "NotAuthorized"
	// ClassCredentials: Berth's credentials are not good.
	ClassCredentials Class = "BadCredentials"
	// ClassImage: the image is gone, foreign, or for another architecture.
	ClassImage Class = "ImageUnusable"
	// ClassProfile: the instance profile is missing, or too new to be known.
	ClassProfile Class = "InstanceProfileMissing"
	// ClassNetwork: a subnet or a security group is gone.
	ClassNetwork Class = "NetworkMissing"
	// ClassTemplate: the launch template is gone.
	ClassTemplate Class = "LaunchTemplateMissing"
	// ClassSettings: everything else that a person must change.
	ClassSettings Class = "SettingsRefused"
)

// ClassOf returns what a refusal is about, "" for an error that is none.
func ClassOf(err error) Class {
	var (
		none *CapacityError
		bad  *ConfigError
	)
	switch {
	case errors.As(err, &none):
		return roomClass(none.Code)
	case errors.As(err, &bad):
		return configClass(bad.Code, bad.Message)
	default:
		return ""
	}
}

// roomClass sorts the codes by which EC2 says that it has none.
func roomClass(code string) Class {
	switch refusalScopes[code] {
	case scopeQuota:
		return ClassQuota
	case scopeSubnet:
		return ClassAddresses
	default:
		return ClassCapacity
	}
}

// configClass sorts the codes of refusals that are a matter of settings.
func configClass(code, message string) Class {
	switch {
	case isDeniedCode(code), code == "AuthFailure.ServiceLinkedRoleCreationNotPermitted":
		return ClassDenied
	case isCredentialCode(code):
		return ClassCredentials
	case strings.HasPrefix(code, "InvalidAMIID"), strings.HasPrefix(code, "InvalidImageID"), isArchitectureFault(code, message):
		return ClassImage
	case isProfileFault(code, message):
		return ClassProfile
	case strings.HasPrefix(code, "InvalidSubnet"), strings.HasPrefix(code, "InvalidGroup"), strings.HasPrefix(code, "InvalidSecurityGroup"):
		return ClassNetwork
	case strings.HasPrefix(code, "InvalidLaunchTemplate"):
		return ClassTemplate
	default:
		return ClassSettings
	}
}

// isArchitectureFault reports whether EC2 refuses an image for its architecture.
func isArchitectureFault(code, message string) bool {
	return code == "InvalidParameterValue" && strings.Contains(message, "architecture")
}
