package cluster

import "encoding/json"

// Info is what a user or a test must know of a running cluster: the one line
// of JSON on stdout. Absent parts have no key.
type Info struct {
	// Kubeconfig is the path of an administrator's kubeconfig.
	Kubeconfig string `json:"kubeconfig"`
	// Dir is the cluster's folder; logs are in its "logs" folder.
	Dir string `json:"dir"`
	// ClusterName is the context in Kubeconfig and the name in instance tags.
	ClusterName string `json:"clusterName"`
	// APIServer and Etcd are base URLs; etcd speaks plain HTTP.
	APIServer string `json:"apiServer"`
	Etcd      string `json:"etcd"`
	// CAFile is the CA that signed the certificates of the API server, the
	// scheduler and the controller manager.
	CAFile string `json:"caFile"`
	// Kubectl is the path of a kubectl of the cluster's version.
	Kubectl string `json:"kubectl"`
	// SchedulerHealth, ControllerManagerHealth and KwokHealth answer 200 when
	// healthy; /metrics is on the same address.
	SchedulerHealth         string `json:"schedulerHealth"`
	ControllerManagerHealth string `json:"controllerManagerHealth"`
	KwokHealth              string `json:"kwokHealth"`
	// EC2Endpoint, Region and Env are for clients of ec2sim; Env are the
	// environment variables that an AWS SDK reads.
	EC2Endpoint string            `json:"ec2Endpoint,omitempty"`
	Region      string            `json:"region,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	// With --berth=true: the webhook's admission URL, and where webhook and
	// provisioner answer for metrics and health.
	Webhook            string `json:"webhook,omitempty"`
	WebhookMetrics     string `json:"webhookMetrics,omitempty"`
	WebhookHealth      string `json:"webhookHealth,omitempty"`
	ProvisionerMetrics string `json:"provisionerMetrics,omitempty"`
	ProvisionerHealth  string `json:"provisionerHealth,omitempty"`
	// Pids are the process ids by component, "devcluster" being the supervisor.
	Pids map[string]int `json:"pids"`
}

// info describes the cluster that p plans. Pids are left to the caller.
func (p planner) info() Info {
	i := Info{
		Kubeconfig:              p.layout.kubeconfig(),
		Dir:                     p.layout.dir,
		ClusterName:             p.config.ClusterName,
		APIServer:               p.apiServerURL(),
		Etcd:                    p.etcdURL(),
		CAFile:                  p.layout.caCert(),
		Kubectl:                 p.config.Tools["kubectl"],
		SchedulerHealth:         p.scheduler().ready,
		ControllerManagerHealth: p.controllerManager().ready,
		KwokHealth:              p.kwok().ready,
	}
	if p.config.EC2 {
		i.EC2Endpoint = p.ec2URL()
		i.Region = p.config.Region
		i.Env = p.awsEnv()
	}
	if p.config.Berth {
		i.Webhook = p.webhookURL()
		i.WebhookMetrics = "http://" + p.ports.webhookMetrics.address() + "/metrics"
		i.WebhookHealth = p.webhook().ready
		i.ProvisionerMetrics = "http://" + p.ports.provisionerMetrics.address() + "/metrics"
		i.ProvisionerHealth = p.provisioner().ready
	}
	return i
}

// Line returns the description as one line of JSON with its newline.
func (i Info) Line() ([]byte, error) {
	line, err := json.Marshal(i)
	if err != nil {
		return nil, err
	}
	return append(line, '\n'), nil
}
