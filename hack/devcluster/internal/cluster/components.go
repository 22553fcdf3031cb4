package cluster

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/berth-dev/berth/hack/devcluster/internal/supervise"
)

// component is one process: how it is started and how one knows that it works.
type component struct {
	supervise.Spec
	// ports are released just before the start.
	ports []*port
	// ready is a URL that answers 200 once the component does its work.
	ready string
}

// The services' range (the one that EKS gives) and the pods' range. kube-proxy is not there and pods
// get no network: the addresses only have to be well formed and distinct.
const (
	serviceRange = "10.100.0.0/16"
	podRange     = "10.128.0.0/9"
)

// The clients of the control plane share 2 CPUs with their server and with
// nobody else, so what bounds them is the CPU. The defaults (20 to 50 requests
// a second) would make it the client's own rate limit: 1,000 pods in 20 s.
const (
	clientQPS   = 5000
	clientBurst = 10000
)

// collectRarely makes Go's garbage collector run at five times the live heap
// instead of at twice. The heaps here are a few hundred MiB and CPU is what is
// short.
const collectRarely = "GOGC=400"

// systemPorts are the ports of one cluster.
type systemPorts struct {
	etcd, etcdPeer, apiServer, controllerManager, scheduler, kwok *port
	ec2                                                           *port
	webhook, webhookMetrics, webhookHealth                        *port
	provisionerMetrics, provisionerHealth                         *port
}

// slots are the fields, for those who treat all alike.
func (s *systemPorts) slots() []**port {
	return []**port{
		&s.etcd, &s.etcdPeer, &s.apiServer, &s.controllerManager, &s.scheduler, &s.kwok,
		&s.ec2,
		&s.webhook, &s.webhookMetrics, &s.webhookHealth,
		&s.provisionerMetrics, &s.provisionerHealth,
	}
}

func reserveSystemPorts() (systemPorts, error) {
	var s systemPorts
	slots := s.slots()
	ports, err := reservePorts(len(slots))
	if err != nil {
		return s, err
	}
	for i, slot := range slots {
		*slot = ports[i]
	}
	return s, nil
}

// release lets go of all ports that are still held.
func (s *systemPorts) release() {
	for _, slot := range s.slots() {
		(*slot).release()
	}
}

// planner writes the command lines of one cluster.
type planner struct {
	config Config
	layout layout
	ports  systemPorts
}

func (p planner) apiServerURL() string { return "https://" + p.ports.apiServer.address() }
func (p planner) etcdURL() string      { return "http://" + p.ports.etcd.address() }
func (p planner) ec2URL() string       { return "http://" + p.ports.ec2.address() }
func (p planner) webhookURL() string   { return "https://" + p.ports.webhook.address() }

// system makes a component of the control plane, with an environment of its
// own: nobody's GODEBUG, proxy or cloud settings reach it.
func (p planner) system(name string, ready string, ports []*port, args ...string) component {
	return component{
		Spec: supervise.Spec{
			Name: name,
			Path: p.config.Tools[name],
			Args: args,
			Env:  []string{"HOME=" + p.layout.dir, "TMPDIR=" + p.layout.dir, collectRarely},
			Dir:  p.layout.dir,
			Log:  p.layout.log(name),
		},
		ports: ports,
		ready: ready,
	}
}

func (p planner) etcd() component {
	return p.system("etcd", p.etcdURL()+"/health", []*port{p.ports.etcd, p.ports.etcdPeer},
		"--name=devcluster",
		"--data-dir="+p.layout.etcdData(),
		"--listen-client-urls="+p.etcdURL(),
		"--advertise-client-urls="+p.etcdURL(),
		"--listen-peer-urls=http://"+p.ports.etcdPeer.address(),
		"--initial-advertise-peer-urls=http://"+p.ports.etcdPeer.address(),
		"--initial-cluster=devcluster=http://"+p.ports.etcdPeer.address(),
		// The data dies with the process: no write has to wait for a disk.
		"--unsafe-no-fsync",
		"--log-level=warn",
	)
}

func (p planner) apiServer() component {
	return p.system("kube-apiserver", p.apiServerURL()+"/readyz", []*port{p.ports.apiServer},
		"--bind-address="+host,
		fmt.Sprintf("--secure-port=%d", p.ports.apiServer.number),
		"--tls-cert-file="+p.layout.serverCert(),
		"--tls-private-key-file="+p.layout.serverKey(),
		"--client-ca-file="+p.layout.caCert(),
		"--token-auth-file="+p.layout.tokens(),
		"--authorization-mode=RBAC",
		"--etcd-servers="+p.etcdURL(),
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-signing-key-file="+p.layout.serviceKey(),
		"--service-account-key-file="+p.layout.servicePub(),
		"--service-cluster-ip-range="+serviceRange,
		"--allow-privileged=true",
		// An endpoint of the "kubernetes" service may not be a loopback
		// address; nothing here resolves that service.
		"--endpoint-reconciler-type=none",
		"--profiling=false",
		// Stop without waiting for clients to find another server.
		"--shutdown-delay-duration=0s",
	)
}

func (p planner) controllerManager() component {
	const name = "kube-controller-manager"
	self := p.layout.member(name)
	return p.system(name, "https://"+p.ports.controllerManager.address()+"/healthz", []*port{p.ports.controllerManager},
		"--kubeconfig="+self,
		// The admin's token may read metrics here. Aggregated API servers, whose
		// settings a lookup would wait for, there are none.
		"--authentication-kubeconfig="+self,
		"--authentication-skip-lookup=true",
		"--authorization-kubeconfig="+self,
		"--bind-address="+host,
		fmt.Sprintf("--secure-port=%d", p.ports.controllerManager.number),
		"--tls-cert-file="+p.layout.serverCert(),
		"--tls-private-key-file="+p.layout.serverKey(),
		"--root-ca-file="+p.layout.caCert(),
		"--service-account-private-key-file="+p.layout.serviceKey(),
		// One set of clients for all controllers instead of a service account
		// and connection for each: less memory, a faster start.
		"--use-service-account-credentials=false",
		// There is one: no lease to win first.
		"--leader-elect=false",
		fmt.Sprintf("--kube-api-qps=%d", clientQPS),
		fmt.Sprintf("--kube-api-burst=%d", clientBurst),
		// All but those that give address ranges to nodes (kwok needs none) and
		// certificates to kubelets. What needs a cloud provider is not in this
		// program.
		"--controllers="+strings.Join([]string{
			"*",
			"-node-ipam-controller",
			"-certificatesigningrequest-approving-controller",
			"-certificatesigningrequest-cleaner-controller",
			"-certificatesigningrequest-signing-controller",
		}, ","),
		// The NoExecute taint of a node that was not ready at one check goes
		// away at the next. At the default of 5 s a new node that meets a check
		// between its registration and its first status is shut to pods for
		// that long.
		"--node-monitor-period=250ms",
		// The default is 50 s. Heartbeats of hundreds of nodes come late here when
		// the API server is busy (stages/lease.yaml), and a node that is marked
		// unknown for it costs more work still.
		"--node-monitor-grace-period=2m",
		"--profiling=false",
	)
}

func (p planner) scheduler() component {
	const name = "kube-scheduler"
	self := p.layout.member(name)
	return p.system(name, "https://"+p.ports.scheduler.address()+"/readyz", []*port{p.ports.scheduler},
		"--config="+p.layout.schedulerConfig(),
		"--authentication-kubeconfig="+self,
		"--authentication-skip-lookup=true",
		"--authorization-kubeconfig="+self,
		"--bind-address="+host,
		fmt.Sprintf("--secure-port=%d", p.ports.scheduler.number),
		"--tls-cert-file="+p.layout.serverCert(),
		"--tls-private-key-file="+p.layout.serverKey(),
	)
}

// schedulerConfig is a KubeSchedulerConfiguration: all of kube-scheduler's
// defaults but for its rate limit, leader election and profiling.
func schedulerConfig(l layout) map[string]any {
	return map[string]any{
		"apiVersion": "kubescheduler.config.k8s.io/v1",
		"kind":       "KubeSchedulerConfiguration",
		"clientConnection": map[string]any{
			"kubeconfig": l.member("kube-scheduler"),
			"qps":        clientQPS,
			"burst":      clientBurst,
		},
		"leaderElection":            map[string]any{"leaderElect": false},
		"enableProfiling":           false,
		"enableContentionProfiling": false,
	}
}

func (p planner) kwok() component {
	const name = "kwok"
	return p.system(name, "http://"+p.ports.kwok.address()+"/readyz", []*port{p.ports.kwok},
		"--config="+p.layout.kwokConfig(),
		"--kubeconfig="+p.layout.member(name),
		"--server-address="+p.ports.kwok.address(),
		"--manage-all-nodes=false",
		"--manage-nodes-with-annotation-selector="+nodeAnnotation+"=fake",
		"--manage-nodes-with-label-selector=!"+stoppedLabel,
		"--cidr="+podRange,
	)
}

// sibling makes a component of Berth's own repository. It inherits the
// environment (so that GOCOVERDIR and the like work), but no AWS or Kubernetes
// setting of the user's: what it is told here is all it may know.
func (p planner) sibling(name, ready string, ports []*port, extraEnv []string, args ...string) component {
	env := slices.DeleteFunc(slices.Clone(p.config.Environ), func(kv string) bool {
		return strings.HasPrefix(kv, "AWS_") || strings.HasPrefix(kv, "KUBE")
	})
	return component{
		Spec: supervise.Spec{
			Name: name,
			Path: siblingPath(p.config.BinDir, name),
			Args: args,
			Env:  append(env, extraEnv...),
			Dir:  p.layout.dir,
			Log:  p.layout.log(name),
		},
		ports: ports,
		ready: ready,
	}
}

// awsEnv is what an AWS SDK must be told to reach ec2sim. The credentials are
// made up: ec2sim takes any.
func (p planner) awsEnv() map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL":      p.ec2URL(),
		"AWS_REGION":            p.config.Region,
		"AWS_ACCESS_KEY_ID":     "sim",
		"AWS_SECRET_ACCESS_KEY": "sim",
	}
}

func (p planner) ec2sim() component {
	return p.sibling("ec2sim", p.ec2URL()+"/healthz", []*port{p.ports.ec2}, nil,
		"--listen", p.ports.ec2.address(),
		"--kubeconfig", p.layout.kubeconfig(),
		"--region", p.config.Region,
		"--cluster-name", p.config.ClusterName,
		"--boot-delay", p.config.BootDelay.String(),
	)
}

func (p planner) webhook() component {
	health := p.ports.webhookHealth.address()
	return p.sibling("webhook", "http://"+health+"/readyz",
		[]*port{p.ports.webhook, p.ports.webhookMetrics, p.ports.webhookHealth}, nil,
		"--kubeconfig", p.layout.kubeconfig(),
		"--bind-address", host,
		"--port", fmt.Sprint(p.ports.webhook.number),
		"--cluster-name", p.config.ClusterName,
		"--cert-mode", "self",
		"--webhook-url", p.webhookURL(),
		"--metrics-bind-address", p.ports.webhookMetrics.address(),
		"--health-probe-bind-address", health,
	)
}

func (p planner) provisioner() component {
	// An SDK that finds no credentials would ask the instance metadata service.
	env := []string{"AWS_EC2_METADATA_DISABLED=true"}
	for key, value := range p.awsEnv() {
		env = append(env, key+"="+value)
	}
	slices.Sort(env)
	health := p.ports.provisionerHealth.address()
	args := []string{
		"--kubeconfig", p.layout.kubeconfig(),
		"--cluster-name", p.config.ClusterName,
		"--cluster-endpoint", p.apiServerURL(),
		"--interruption-queue", p.config.ClusterName,
		"--metrics-bind-address", p.ports.provisionerMetrics.address(),
		"--health-probe-bind-address", health,
	}
	return p.sibling("provisioner", "http://"+health+"/readyz",
		[]*port{p.ports.provisionerMetrics, p.ports.provisionerHealth}, env,
		append(args, p.config.ProvisionerArgs...)...)
}

// Time that a group of processes has to end after SIGTERM.
const (
	berthGrace  = 5 * time.Second
	systemGrace = 5 * time.Second
	serverGrace = 5 * time.Second
	etcdGrace   = 3 * time.Second
)
