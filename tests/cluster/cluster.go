package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

const (
	nodeName = "testbed"
	etcdURL  = "http://127.0.0.1:2379"
	apiURL   = "https://" + bridgeIP + ":6443"
)

// cluster is the running control plane.
type cluster struct {
	opts       *options
	pki        *pki
	etcd       *embed.Etcd
	mu         sync.Mutex // guards procs
	procs      []*exec.Cmd
	kubeconfig string
	rest       *rest.Config
	failed     chan error // a component that ended on its own
	stopping   chan struct{}
}

// startControlPlane starts etcd, kube-apiserver, kube-controller-manager and,
// if asked, kube-scheduler, and waits until the API is ready.
func startControlPlane(ctx context.Context, o *options) (*cluster, error) {
	c := &cluster{opts: o, failed: make(chan error, 8), stopping: make(chan struct{})}
	if err := c.writeCredentials(); err != nil {
		return nil, err
	}
	if err := c.startEtcd(); err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	if err := c.startComponents(ctx); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

func (c *cluster) startComponents(ctx context.Context) error {
	if err := os.WriteFile(c.file("audit-policy.yaml"), []byte(auditPolicy), 0o644); err != nil {
		return err
	}
	if err := c.start("kube-apiserver", c.apiserverFlags()); err != nil {
		return err
	}
	if err := c.waitReady(ctx, time.Minute); err != nil {
		return err
	}
	if err := c.start("kube-controller-manager", c.controllerFlags()); err != nil {
		return err
	}
	if c.opts.scheduler {
		return c.start("kube-scheduler", []string{"--kubeconfig=" + c.kubeconfig, "--leader-elect=false", "--secure-port=0"})
	}
	return nil
}

// file is a file of the state directory.
func (c *cluster) file(name string) string { return filepath.Join(c.opts.dir, name) }

// writeCredentials makes the CA, the certificates, the service-account key
// and the administrator's kubeconfig.
func (c *cluster) writeCredentials() error {
	p, err := newPKI(c.file("pki"))
	if err != nil {
		return err
	}
	c.pki = p
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"}
	if err := p.server("apiserver", names, []string{bridgeIP, apiVIP, "127.0.0.1"}); err != nil {
		return err
	}
	if err := p.client("admin", "admin", "system:masters"); err != nil {
		return err
	}
	// This pair signs and verifies service-account tokens.
	if err := p.client("sa", "service-accounts", ""); err != nil {
		return err
	}
	c.kubeconfig = c.file("kubeconfig")
	data := func(file string) string {
		b, readErr := os.ReadFile(p.path(file))
		if readErr != nil {
			err = readErr
		}
		return b64(b)
	}
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: testbed
clusters: [{name: testbed, cluster: {server: %q, certificate-authority-data: %s}}]
contexts: [{name: testbed, context: {cluster: testbed, user: admin}}]
users: [{name: admin, user: {client-certificate-data: %s, client-key-data: %s}}]
`, apiURL, data("ca.crt"), data("admin.crt"), data("admin.key"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.kubeconfig, []byte(text), 0o600); err != nil {
		return err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", c.kubeconfig)
	if err != nil {
		return err
	}
	c.rest = unlimited(cfg)
	return nil
}

func (c *cluster) startEtcd() error {
	cfg := embed.NewConfig()
	cfg.Dir = c.file("etcd")
	cfg.UnsafeNoFsync = true // the data does not outlive the run
	cfg.LogLevel = "error"
	cfg.LogOutputs = []string{c.file("etcd.log")}
	client, _ := url.Parse(etcdURL)
	peer, _ := url.Parse("http://127.0.0.1:2380")
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	// A single member needs no election delay.
	cfg.TickMs, cfg.ElectionMs = 10, 100
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	c.etcd = e
	select {
	case <-e.Server.ReadyNotify():
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("not ready in 20s")
	}
}

// auditPolicy has every request of a pod in audit.log: what a controller reads
// and writes, and that it rests when nothing changes.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts"]}
- {level: None}
`

func (c *cluster) apiserverFlags() []string {
	return []string{
		"--audit-policy-file=" + c.file("audit-policy.yaml"), "--audit-log-path=" + c.file("audit.log"),
		"--etcd-servers=" + etcdURL,
		"--bind-address=0.0.0.0", "--secure-port=6443", "--advertise-address=" + bridgeIP,
		"--service-cluster-ip-range=" + serviceCIDR,
		"--tls-cert-file=" + c.pki.path("apiserver.crt"), "--tls-private-key-file=" + c.pki.path("apiserver.key"),
		"--client-ca-file=" + c.pki.path("ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		// A token lives as long as it says, so that its renewal is tested.
		"--service-account-extend-token-expiration=false",
		"--service-account-key-file=" + c.pki.path("sa.crt"), "--service-account-signing-key-file=" + c.pki.path("sa.key"),
		"--authorization-mode=RBAC", "--kubelet-preferred-address-types=InternalIP",
		// No node-lifecycle controller runs here to lift the taint it sets.
		"--disable-admission-plugins=TaintNodesByCondition",
		"--enable-priority-and-fairness=false",
		"--allow-privileged=true", "--profiling=false", "--event-ttl=10m",
	}
}

func (c *cluster) controllerFlags() []string {
	return []string{
		"--kubeconfig=" + c.kubeconfig, "--leader-elect=false", "--secure-port=0",
		"--service-account-private-key-file=" + c.pki.path("sa.key"), "--root-ca-file=" + c.pki.path("ca.crt"),
		"--kube-api-qps=500", "--kube-api-burst=1000", "--profiling=false",
		"--controllers=" + strings.Join([]string{
			"deployment-controller", "replicaset-controller", "statefulset-controller", "daemonset-controller", "job-controller",
			"endpointslice-controller", "endpoints-controller", "endpointslice-mirroring-controller",
			"namespace-controller", "serviceaccount-controller", "serviceaccount-token-controller",
			"root-ca-certificate-publisher-controller", "clusterrole-aggregation-controller",
			"garbage-collector-controller", "pod-garbage-collector-controller", "validatingadmissionpolicy-status-controller",
			"disruption-controller",
		}, ","),
	}
}

// startKubeProxy needs the Node object to exist.
func (c *cluster) startKubeProxy() error {
	conf := c.file("kube-proxy.yaml")
	text := fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: %s, qps: 500, burst: 1000}
clusterCIDR: %s
hostnameOverride: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nftables: {syncPeriod: 30s, minSyncPeriod: 50ms}
# Leave the kernel's conntrack settings alone.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`, c.kubeconfig, podCIDR, nodeName)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	return c.start("kube-proxy", []string{"--config=" + conf})
}

// start runs one linked-in component as a child process that logs to a file.
// One that ends while there is a file NAME.hold beside its log is started
// again when that file is gone: so that a test can take it away for a while.
func (c *cluster) start(name string, flags []string) error {
	started := make(chan error)
	go func() {
		// Pdeathsig follows the thread that started the child: keep it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd, err := c.spawn(name, flags)
		started <- err
		for err == nil {
			err = cmd.Wait()
			select {
			case <-c.stopping:
				return
			default:
			}
			if !c.held(name) {
				c.failed <- fmt.Errorf("%s ended: %v; see its log in %s", name, err, c.opts.dir)
				return
			}
			if cmd, err = c.spawn(name, flags); err != nil {
				c.failed <- err
			}
		}
	}()
	return <-started
}

// spawn starts a component and notes its process id.
func (c *cluster) spawn(name string, flags []string) (*exec.Cmd, error) {
	out, err := os.OpenFile(c.file(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd := exec.Command("/proc/self/exe", append([]string{name}, flags...)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.procs = append(c.procs, cmd)
	log.Printf("%s started, pid %d", name, cmd.Process.Pid)
	return cmd, os.WriteFile(c.file(name+".pid"), []byte(fmt.Sprintln(cmd.Process.Pid)), 0o644)
}

// held waits as long as a component is not to be started again, and says
// whether it was so at all.
func (c *cluster) held(name string) bool {
	held := false
	for {
		if _, err := os.Stat(c.file(name + ".hold")); err != nil {
			return held
		}
		held = true
		select {
		case <-c.stopping:
			return false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// waitReady polls the API server's readiness endpoint.
func (c *cluster) waitReady(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	hc, err := rest.HTTPClientFor(c.rest)
	if err != nil {
		return err
	}
	for {
		if resp, err := hc.Get(apiURL + "/readyz"); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver not ready: %w", ctx.Err())
		case err := <-c.failed:
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop ends the components in reverse order, then etcd.
func (c *cluster) stop() {
	close(c.stopping)
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.procs) - 1; i >= 0; i-- {
		_ = c.procs[i].Process.Kill()
	}
	if c.etcd != nil {
		c.etcd.Server.HardStop()
	}
}

// hostPort joins a host with a port number.
func hostPort(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
