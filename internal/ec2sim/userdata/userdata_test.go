package userdata

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

const ca = "LS0tLS1CRUdJTi0tLS0t" // "-----BEGIN-----"

const cluster = `apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster:
    name: demo
    apiServerEndpoint: https://127.0.0.1:6443
    certificateAuthority: ` + ca + `
    cidr: 10.100.0.0/16
`

func mimeOf(parts ...string) string {
	var b strings.Builder
	b.WriteString("MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"//\"\r\n\r\n")
	for _, p := range parts {
		b.WriteString("--//\r\n" + p + "\r\n")
	}
	b.WriteString("--//--\r\n")
	return b.String()
}

func nodeConfigPart(doc string) string {
	return "Content-Type: application/node.eks.aws\r\n\r\n" + doc
}

func base() *Config {
	return &Config{ClusterName: "demo", Endpoint: "https://127.0.0.1:6443", CA: []byte("-----BEGIN-----"), Labels: map[string]string{}}
}

func packed(t *testing.T, text string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestNodeadm(t *testing.T) {
	five, thirty := int32(5), int32(30)
	kubelet := `  kubelet:
    config:
      maxPods: 30
      clusterDNS: [10.100.0.10]
      kubeReserved: {cpu: 100m}
      systemReserved: {memory: 50Mi}
      evictionHard: {memory.available: 5%}
      registerWithTaints: [{key: a, value: b, effect: NoSchedule}]
    flags: ["--node-labels=team=x,berth.dev/provisioner=default", "--v=4"]
`
	full := base()
	full.MaxPods, full.ClusterDNS = &thirty, []string{"10.100.0.10"}
	full.KubeReserved, full.SystemReserved = map[string]string{"cpu": "100m"}, map[string]string{"memory": "50Mi"}
	full.EvictionHard = map[string]string{"memory.available": "5%"}
	full.Taints = []corev1.Taint{{Key: "a", Value: "b", Effect: "NoSchedule"}}
	full.Labels = map[string]string{"team": "x", "berth.dev/provisioner": "default"}

	merged := base()
	merged.MaxPods = &five
	merged.EvictionHard = map[string]string{"memory.available": "5%", "nodefs.available": "15%"}
	merged.Labels = map[string]string{"a": "2", "b": "1"}

	flags := base()
	flags.MaxPods, flags.PodsPerCore = &five, 3
	flags.KubeReserved, flags.SystemReserved = map[string]string{"cpu": "1"}, map[string]string{"memory": "1Gi"}
	flags.EvictionHard = map[string]string{"memory.available": "1Gi", "nodefs.available": "5%"}
	flags.Taints = []corev1.Taint{{Key: "x", Effect: "NoExecute"}, {Key: "y", Value: "z", Effect: "NoSchedule"}}
	flags.ClusterDNS = []string{"1.2.3.4"}

	raid := base()
	raid.LocalStorage = "RAID0"

	for name, tc := range map[string]struct {
		in   string
		want *Config
	}{
		"a bare document":                             {cluster, base()},
		"a multipart document":                        {mimeOf(nodeConfigPart(cluster + kubelet)), full},
		"parts of other types are left to cloud-init": {mimeOf("Content-Type: text/x-shellscript\r\n\r\n#!/bin/sh\nfalse", nodeConfigPart(cluster)), base()},
		"base64 is undone":                            {base64.StdEncoding.EncodeToString([]byte(cluster)), base()},
		"gzip is undone":                              {packed(t, cluster), base()},
		"later parts override, flags add up, config merges by key": {mimeOf(
			nodeConfigPart(cluster+"  kubelet:\n    config: {maxPods: 9, evictionHard: {memory.available: 5%}}\n    flags: [--node-labels=a=1]\n"),
			nodeConfigPart("apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  kubelet:\n    config: {maxPods: 5, evictionHard: {nodefs.available: 15%}}\n    flags: ['--node-labels=a=2,b=1']\n"),
		), merged},
		"flags win over config": {cluster + `  kubelet:
    config: {maxPods: 9, registerWithTaints: [{key: gone, effect: NoSchedule}]}
    flags: [--max-pods=5, --pods-per-core=3, --kube-reserved=cpu=1, --system-reserved=memory=1Gi, "--eviction-hard=memory.available<1Gi,nodefs.available<5%", "--register-with-taints=x:NoExecute,y=z:NoSchedule", --cluster-dns=1.2.3.4]
`, flags},
		"a local storage strategy": {cluster + "  instance: {localStorage: {strategy: RAID0}}\n", raid},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(AL2023, []byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestNodeadmRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"nothing":                             {"", "NodeConfig"},
		"a shell script":                      {"#!/bin/bash\n/etc/eks/bootstrap.sh demo\n", "decoding NodeConfig"},
		"MIME without a NodeConfig":           {mimeOf("Content-Type: text/x-shellscript\r\n\r\ntrue"), "could not find NodeConfig"},
		"MIME without a boundary":             {"Content-Type: multipart/mixed\r\n\r\n--x--", "no boundary"},
		"MIME cut short":                      {"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: application/node.eks.aws\r\n\r\nap", "reading the MIME document"},
		"another kind":                        {strings.Replace(cluster, "NodeConfig", "Nodeconfig", 1), "no kind"},
		"another version":                     {strings.Replace(cluster, "v1alpha1", "v1", 1), "no kind"},
		"an unknown key":                      {strings.Replace(cluster, "    name:", "    colour: red\n    name:", 1), "colour"},
		"the same key twice":                  {cluster + "  kubelet: {}\n  kubelet: {}\n", "kubelet"},
		"no name":                             {strings.Replace(cluster, "name: demo", "name: ''", 1), "name is missing"},
		"no endpoint":                         {strings.Replace(cluster, "https://127.0.0.1:6443", "''", 1), "apiServerEndpoint is missing"},
		"no CA":                               {strings.Replace(cluster, ca, "''", 1), "certificateAuthority is missing"},
		"a CA that is not base64":             {strings.Replace(cluster, ca, "'%%%'", 1), "illegal base64"},
		"no CIDR":                             {strings.Replace(cluster, "10.100.0.0/16", "''", 1), "cidr is missing"},
		"a CIDR that is none":                 {strings.Replace(cluster, "10.100.0.0/16", "10.100.0.0", 1), "CIDR"},
		"an unknown kubelet key":              {cluster + "  kubelet: {config: {maxpods: 3}}\n", "maxpods"},
		"a kubelet key of another type":       {cluster + "  kubelet: {config: {maxPods: lots}}\n", "maxPods"},
		"pods below zero":                     {cluster + "  kubelet: {config: {maxPods: -3}}\n", "maxPods is -3"},
		"pods per core below zero":            {cluster + "  kubelet: {config: {podsPerCore: -3}}\n", "podsPerCore is -3"},
		"an unknown flag":                     {cluster + "  kubelet: {flags: [--hostname-override=me]}\n", "unknown flag"},
		"a word that is no flag":              {cluster + "  kubelet: {flags: [help]}\n", "unknown command"},
		"a label the kubelet may not set":     {cluster + "  kubelet: {flags: [--node-labels=node-role.kubernetes.io/worker=x]}\n", "node-role.kubernetes.io/worker"},
		"a label under k8s.io":                {cluster + "  kubelet: {flags: [--node-labels=topology.k8s.aws.k8s.io/a=x]}\n", "unknown 'kubernetes.io' or 'k8s.io' label"},
		"a label without a value":             {cluster + "  kubelet: {flags: [--node-labels=a]}\n", "malformed pair"},
		"a label that is malformed":           {cluster + "  kubelet: {flags: [--node-labels=a b=c]}\n", "invalid node label"},
		"a label value that is malformed":     {cluster + "  kubelet: {flags: ['--node-labels=a=-']}\n", "invalid value"},
		"a taint without effect":              {cluster + "  kubelet: {flags: [--register-with-taints=a=b]}\n", "invalid taint"},
		"a taint with an unknown effect":      {cluster + "  kubelet: {flags: [--register-with-taints=a=b:Never]}\n", "invalid effect"},
		"the same taint twice":                {cluster + "  kubelet: {flags: ['--register-with-taints=a=b:NoSchedule,a=c:NoSchedule']}\n", "duplicated taints"},
		"an eviction threshold without value": {cluster + "  kubelet: {flags: ['--eviction-hard=memory.available']}\n", "invalid eviction threshold"},
		"an unknown storage strategy":         {cluster + "  instance: {localStorage: {strategy: RAID6}}\n", "RAID6"},
		"a gzip stream cut short":             {"\x1f\x8b\x08", "decompress"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse(AL2023, []byte(tc.in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %+v, %v; want an error with %q", c, err, tc.want)
			}
		})
	}
}

const tomlCluster = `[settings.kubernetes]
cluster-name = "demo"
api-server = "https://127.0.0.1:6443"
cluster-certificate = "` + ca + `"
`

func TestBottlerocket(t *testing.T) {
	forty := int32(40)
	full := base()
	full.MaxPods, full.ClusterDNS = &forty, []string{"10.100.0.10"}
	full.Labels = map[string]string{"team": "x"}
	full.KubeReserved, full.SystemReserved = map[string]string{"cpu": "100m"}, map[string]string{"memory": "50Mi"}
	full.EvictionHard = map[string]string{"memory.available": "5%"}
	full.Taints = []corev1.Taint{{Key: "a", Value: "b", Effect: "NoSchedule"}, {Key: "a", Value: "b", Effect: "NoExecute"}, {Key: "c", Effect: "PreferNoSchedule"}}
	for name, tc := range map[string]struct {
		in   string
		want *Config
	}{
		"the least": {tomlCluster, base()},
		"everything": {tomlCluster + `cluster-dns-ip = "10.100.0.10"
max-pods = 40
log-level = 3
[settings.kubernetes.node-labels]
team = "x"
[settings.kubernetes.node-taints]
a = ["b:NoSchedule", "b:NoExecute"]
c = ":PreferNoSchedule"
[settings.kubernetes.kube-reserved]
cpu = "100m"
[settings.kubernetes.system-reserved]
memory = "50Mi"
[settings.kubernetes.eviction-hard]
"memory.available" = "5%"
[settings.host-containers.admin]
enabled = true
`, full},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(Bottlerocket, []byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBottlerocketRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ in, want string }{
		"nothing":                          {"", "cluster-name is missing"},
		"a NodeConfig":                     {cluster, "decoding the settings"},
		"no endpoint":                      {strings.Replace(tomlCluster, "api-server", "node-ip", 1), "api-server is missing"},
		"no CA":                            {strings.Replace(tomlCluster, "cluster-certificate", "node-ip", 1), "cluster-certificate is missing"},
		"a CA that is not base64":          {strings.Replace(tomlCluster, ca, "%%%", 1), "cluster-certificate"},
		"an unknown setting":               {tomlCluster + "maxpods = 3\n", `unknown setting "settings.kubernetes.maxpods"`},
		"a key outside settings":           {"a = 1\n" + tomlCluster, "outside [settings]"},
		"a number for a label":             {tomlCluster + "[settings.kubernetes.node-labels]\na = 1\n", "decoding the settings"},
		"a number for a taint":             {tomlCluster + "[settings.kubernetes.node-taints]\na = 1\n", "neither a string"},
		"a number among the taints":        {tomlCluster + "[settings.kubernetes.node-taints]\na = [1]\n", "not a string"},
		"a taint without effect":           {tomlCluster + "[settings.kubernetes.node-taints]\na = \"b\"\n", "invalid taint"},
		"a label the kubelet may not set":  {tomlCluster + "[settings.kubernetes.node-labels]\n\"node-role.kubernetes.io/x\" = \"\"\n", "unknown 'kubernetes.io'"},
		"a number of pods that is too big": {tomlCluster + "max-pods = 3000000000\n", "out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse(Bottlerocket, []byte(tc.in))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %+v, %v; want an error with %q", c, err, tc.want)
			}
		})
	}
}

func TestUnknownFamily(t *testing.T) {
	if _, err := Parse("windows", nil); err == nil {
		t.Error("an unknown family was parsed")
	}
}

func checkParsed(t *testing.T, c *Config, err error) {
	if err != nil {
		return
	}
	if c.ClusterName == "" || c.Endpoint == "" || c.Labels == nil || (c.MaxPods != nil && *c.MaxPods <= 0) || checkLabels(c.Labels) != nil {
		t.Fatalf("accepted %+v", c)
	}
}

func FuzzNodeadm(f *testing.F) {
	f.Add([]byte(cluster))
	f.Add([]byte(mimeOf(nodeConfigPart(cluster), nodeConfigPart(cluster))))
	f.Add([]byte(cluster + "  kubelet: {config: {maxPods: 5}, flags: ['--node-labels=a=b', '--max-pods=3']}\n"))
	f.Add([]byte("Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(AL2023, data)
		checkParsed(t, c, err)
	})
}

func FuzzBottlerocket(f *testing.F) {
	f.Add([]byte(tomlCluster))
	f.Add([]byte(tomlCluster + "max-pods = 3\n[settings.kubernetes.node-taints]\na = [\"b:NoSchedule\"]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(Bottlerocket, data)
		checkParsed(t, c, err)
	})
}
