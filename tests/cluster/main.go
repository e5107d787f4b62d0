// Testbed runs a one-node Kubernetes cluster inside one network namespace:
// etcd and the upstream control plane, kube-proxy, a small load-balancer
// allocator, and a node that runs containers as plain processes, each pod in
// a network namespace of its own. It needs root, but no container runtime and
// no network beyond the namespaces it makes.
//
//	testbed up --dir DIR --netns NAME --image IMAGE=FILE ... --apply crds/
//	ip netns exec NAME env KUBECONFIG=DIR/kubeconfig some-test
//
// Any number of clusters run side by side: all addresses and ports are inside
// the namespace. "cargo xtask cluster" is the way to start one.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// options are the settings of "testbed up".
type options struct {
	dir       string
	netns     string
	lbRange   string
	scheduler bool
	images    imageMap
	apply     stringList
}

type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, ",") }
func (l *stringList) Set(v string) error { *l = append(*l, v); return nil }

func main() {
	log.SetFlags(log.Ltime | log.Lmicroseconds)
	if len(os.Args) < 2 {
		usage()
	}
	name, args := os.Args[1], os.Args[2:]
	if _, ok := components[name]; ok {
		runComponent(name, args)
	}
	switch name {
	case "up":
		runUp(args)
	case "apply":
		runApply(args)
	default:
		usage()
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: testbed up|apply [flags]   (-h tells the flags)")
	os.Exit(2)
}

// runUp runs a cluster until a signal ends it.
func runUp(args []string) {
	o := options{images: imageMap{}}
	fs := flag.NewFlagSet("up", flag.ExitOnError)
	fs.StringVar(&o.dir, "dir", "", "state directory, without the state of an earlier run")
	fs.StringVar(&o.netns, "netns", "", "name of the network namespace to make; one of that name is removed")
	fs.StringVar(&o.lbRange, "lb-range", "172.20.0.0/24", "addresses for Services of type LoadBalancer")
	fs.BoolVar(&o.scheduler, "scheduler", false, "run kube-scheduler instead of binding pods directly")
	fs.Var(o.images, "image", "IMAGE=FILE: the program that stands for an image (repeatable; IMAGE with or without tag)")
	fs.Var(&o.apply, "apply", "YAML file or directory to apply once the API is up (repeatable)")
	_ = fs.Parse(args)
	dir, err := filepath.Abs(o.dir)
	if o.dir == "" || o.netns == "" || err != nil {
		usage()
	}
	o.dir = dir

	start := startTime()
	enterNamespace(o.netns)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err = up(ctx, &o, start)
	stop()
	deleteNamespace(o.netns)
	if err != nil {
		log.Fatal(err)
	}
}

// runApply applies files to the cluster that $KUBECONFIG names.
func runApply(args []string) {
	fs := flag.NewFlagSet("apply", flag.ExitOnError)
	namespace := fs.String("namespace", metav1.NamespaceDefault, "for objects that name none")
	_ = fs.Parse(args)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err == nil {
		err = applyAll(ctx, unlimited(cfg), *namespace, fs.Args())
	}
	if err != nil {
		log.Fatal(err)
	}
}

// up brings the cluster up, reports readiness, and runs until ctx ends.
func up(ctx context.Context, o *options, start time.Time) error {
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(o.dir, "etcd")); err == nil {
		return fmt.Errorf("%s holds the state of an earlier run", o.dir)
	}
	net, err := newNetwork()
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	cl, err := startControlPlane(ctx, o)
	if err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	defer cl.stop()
	log.Printf("API ready after %s", time.Since(start).Round(time.Millisecond))

	client := kubernetes.NewForConfigOrDie(cl.rest)
	if err := applyAll(ctx, cl.rest, metav1.NamespaceDefault, o.apply); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	kubelet := newKubelet(client, net, o)
	if err := kubelet.registerNode(ctx); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	if err := cl.startKubeProxy(); err != nil {
		return err
	}
	if err := startLoadBalancer(ctx, client, o.lbRange); err != nil {
		return fmt.Errorf("load balancer: %w", err)
	}
	if err := startDNS(ctx, client); err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	kubelet.serveLogs(ctx, cl.pki.path("apiserver.crt"), cl.pki.path("apiserver.key"))
	kubelet.start(ctx)
	defer kubelet.stop()

	ready := filepath.Join(o.dir, "ready")
	if err := os.WriteFile(ready, nil, 0o644); err != nil {
		return err
	}
	defer os.Remove(ready)
	log.Printf("node ready after %s; KUBECONFIG=%s", time.Since(start).Round(time.Millisecond), cl.kubeconfig)
	select {
	case <-ctx.Done():
		log.Print("stopping")
		return nil
	case err := <-cl.failed:
		return err
	}
}

// unlimited returns a copy of cfg without client-side rate limits.
func unlimited(cfg *rest.Config) *rest.Config {
	c := rest.CopyConfig(cfg)
	c.QPS = -1
	return c
}
