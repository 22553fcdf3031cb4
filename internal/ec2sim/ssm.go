package ec2sim

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

type ssmParameter struct {
	Name, Type, Value, DataType, ARN string
	Selector                         string `json:",omitempty"`
	Version                          int
	LastModifiedDate                 float64 // seconds since 1970, as JSON 1.1 has times
}

// ssmParameter of a name, or of "name:version", of which the answer has the part
// from the colon on as Selector. No parameter has labels here.
func (s *Sim) ssmParameter(name string) (ssmParameter, bool) {
	name, selector, selected := strings.Cut(name, ":")
	versions := s.params[name]
	version := len(versions)
	if selected {
		version, _ = strconv.Atoi(selector) // A label is no version.
		selector = ":" + selector
	}
	if version < 1 || version > len(versions) {
		return ssmParameter{}, false
	}
	p := versions[version-1]
	return ssmParameter{
		Name: name, Type: "String", Value: p.value, DataType: "text", Version: version, Selector: selector,
		ARN: "arn:aws:ssm:" + s.cfg.Region + "::parameter" + name, LastModifiedDate: float64(p.changed.Unix()),
	}, true
}

func (s *Sim) getParameter(in *struct {
	Name           string
	WithDecryption *bool
}) (any, error) {
	if in.Name == "" {
		return nil, errf("ValidationException", "1 validation error detected: Value at 'name' failed to satisfy constraint: Member must not be null")
	}
	p, ok := s.ssmParameter(in.Name)
	if !ok {
		return nil, errf("ParameterNotFound", "Parameter %s not found.", in.Name)
	}
	return map[string]any{"Parameter": p}, nil
}

func (s *Sim) getParameters(in *struct {
	Names          []string
	WithDecryption *bool
}) (any, error) {
	if len(in.Names) < 1 || len(in.Names) > 10 {
		return nil, errf("ValidationException", "1 validation error detected: Value at 'names' failed to satisfy constraint: Member must have length between 1 and 10")
	}
	found, invalid := []ssmParameter{}, []string{}
	for i, name := range in.Names {
		if slices.Contains(in.Names[:i], name) {
			continue
		}
		if p, ok := s.ssmParameter(name); ok {
			found = append(found, p)
		} else {
			invalid = append(invalid, name)
		}
	}
	return map[string]any{"Parameters": found, "InvalidParameters": invalid}, nil
}

// serveEKS answers DescribeCluster (GET /clusters/{name}).
func (s *Sim) serveEKS(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/clusters/")
	s.mu.Lock()
	defer s.mu.Unlock()
	start := s.clock.Now()
	apiErr := s.checkAuth(r)
	v := verdict{}
	if apiErr == nil {
		v = s.intercept("eks", "DescribeCluster")
		apiErr = v.refuse
	}
	if apiErr == nil && (name != s.cfg.ClusterName || s.cfg.Endpoint == "") {
		apiErr = errf("ResourceNotFoundException", "No cluster found for name: %s.", name)
	}
	s.record("eks", "DescribeCluster", start, apiErr)
	if v.drop {
		s.log.Info("reply dropped", zap.String("action", "DescribeCluster"))
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Amzn-Requestid", s.newUUID())
	if apiErr != nil {
		w.Header().Set("X-Amzn-Errortype", apiErr.code)
		writeJSON(w, apiErr.status, map[string]string{"message": apiErr.message})
		return
	}
	ids := []string{}
	for _, sn := range s.subnets {
		ids = append(ids, sn.id)
	}
	writeJSON(w, http.StatusOK, map[string]any{"cluster": map[string]any{
		"name": name, "arn": s.arn("eks", "cluster/"+name), "status": "ACTIVE", "endpoint": s.cfg.Endpoint,
		"version":                 kubernetesVersions[len(kubernetesVersions)-1],
		"certificateAuthority":    map[string]string{"data": base64.StdEncoding.EncodeToString(s.cfg.CA)},
		"kubernetesNetworkConfig": map[string]string{"serviceIpv4Cidr": s.cfg.ServiceCIDR, "ipFamily": "ipv4"},
		"resourcesVpcConfig":      map[string]any{"vpcId": s.vpc, "subnetIds": ids, "clusterSecurityGroupId": s.groups[0].id, "securityGroupIds": []string{}},
		"tags":                    map[string]string{},
	}})
}
