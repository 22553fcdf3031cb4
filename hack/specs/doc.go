// Package specs applies the CRDs' rules to specs as the API server does, with the
// API server's own code and without one running. It is a module of its own, so
// that Berth does not depend on that code.
package specs
