package admission

// review is what is needed of an admission.k8s.io/v1 AdmissionReview request.
type review struct {
	uid         string
	kind        string
	resource    string
	subResource string
	namespace   string
	operation   string
	dryRun      bool
	// object and oldObject are the objects as they were sent; empty when absent.
	object, oldObject string
}

// parseReview reads a review. The values of object and oldObject are given to
// the functions, when there are any, and kept as text otherwise. errNoReview
// means that the answer cannot be one either, for want of a UID.
func parseReview(body string, object func(*reader)) (review, error) {
	var v review
	var apiVersion, kind string
	r := &reader{s: body}
	r.object(func(key string) {
		switch key {
		case "apiVersion":
			apiVersion = r.text()
		case "kind":
			kind = r.text()
		case "request":
			v.request(r, object)
		default:
			r.skip()
		}
	})
	if err := r.end(); err != nil {
		return v, err
	}
	if apiVersion != "admission.k8s.io/v1" || kind != "AdmissionReview" || v.uid == "" {
		return v, errNoReview
	}
	return v, nil
}

func (v *review) request(r *reader, object func(*reader)) {
	r.object(func(key string) {
		switch key {
		case "uid":
			v.uid = r.text()
		case "kind":
			r.object(func(key string) {
				if key == "kind" {
					v.kind = r.text()
				} else {
					r.skip()
				}
			})
		case "resource":
			r.object(func(key string) {
				if key == "resource" {
					v.resource = r.text()
				} else {
					r.skip()
				}
			})
		case "subResource":
			v.subResource = r.text()
		case "namespace":
			v.namespace = r.text()
		case "operation":
			v.operation = r.text()
		case "dryRun":
			v.dryRun = r.boolean()
		case "object":
			switch {
			case r.null():
			case object != nil:
				object(r)
			default:
				v.object = r.raw()
			}
		case "oldObject":
			switch {
			case r.null():
			case object != nil:
				r.skip()
			default:
				v.oldObject = r.raw()
			}
		default:
			r.skip()
		}
	})
}

// uidOf finds the request's UID in the beginning of a review, where the API
// server writes it; empty when it is not there.
func uidOf(beginning string) string {
	uid := ""
	r := &reader{s: beginning}
	r.object(func(key string) {
		if key != "request" {
			r.skip()
			return
		}
		r.object(func(key string) {
			if key == "uid" && uid == "" {
				if s := r.text(); r.err == nil {
					uid = s
				}
				return
			}
			r.skip()
		})
	})
	return uid
}
