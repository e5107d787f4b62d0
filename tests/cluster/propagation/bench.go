package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
)

const (
	namespace = "propagation"
	gateway   = "gateway"
	backend   = "backend"
	// pollInterval is gateway-api-bench's.
	pollInterval = 5 * time.Millisecond
	// giveUp is how long one route may take.
	giveUp = time.Minute
	// creators is how many routes are created at a time.
	creators = 32
)

var (
	gatewayResource = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "gateways"}
	routeResource   = schema.GroupVersionResource{Group: "gateway.networking.k8s.io", Version: "v1", Resource: "httproutes"}
)

// bench measures one Gateway, made for it.
type bench struct {
	class, system string
	audit         string // the API server's audit log
	client        kubernetes.Interface
	gateways      dynamic.ResourceInterface
	routes        dynamic.ResourceInterface
	http          http.Client
	address       string
}

func newBench(cfg *rest.Config, class, system, audit string) (*bench, error) {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return &bench{class: class, system: system, audit: audit, client: client,
		gateways: dyn.Resource(gatewayResource).Namespace(namespace),
		routes:   dyn.Resource(routeResource).Namespace(namespace),
		http:     http.Client{Timeout: 10 * time.Second},
	}, nil
}

// setUp makes the namespace, the backend and the Gateway, and waits until a
// request gets the Gateway's 404.
func (b *bench) setUp(ctx context.Context) error {
	core := b.client.CoreV1()
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	labels := map[string]string{"app": backend}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: backend, Labels: labels}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "echo", Image: "registry.k8s.io/gateway-api/conformance/echo-basic",
			Env: []corev1.EnvVar{{Name: "POD_NAME", Value: backend}, {Name: "NAMESPACE", Value: namespace}}}}}}
	// The backend's pod needs its namespace's service account, which a controller makes.
	err := until(ctx, giveUp, func() error {
		_, err := core.Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: backend}, Spec: corev1.ServiceSpec{
		Selector: labels, Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(3000)}}}}
	if _, err := core.Services(namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := until(ctx, giveUp, func() error { return b.podReady(ctx) }); err != nil {
		return err
	}
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
		"metadata": map[string]any{"name": gateway},
		"spec": map[string]any{"gatewayClassName": b.class, "listeners": []any{
			map[string]any{"name": "http", "port": int64(80), "protocol": "HTTP"}}},
	}}
	if _, err := b.gateways.Create(ctx, object, metav1.CreateOptions{}); err != nil {
		return err
	}
	if err := until(ctx, giveUp, func() error { return b.findAddress(ctx) }); err != nil {
		return err
	}
	return until(ctx, giveUp, func() error {
		code, err := b.get(ctx, "none.example.com", "/")
		if err == nil && code != http.StatusNotFound {
			err = fmt.Errorf("status %d without routes", code)
		}
		return err
	})
}

func (b *bench) podReady(ctx context.Context) error {
	pod, err := b.client.CoreV1().Pods(namespace).Get(ctx, backend, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return nil
		}
	}
	return errors.New("the backend is not ready")
}

// findAddress waits for the Gateway to be Programmed.
func (b *bench) findAddress(ctx context.Context) error {
	object, err := b.gateways.Get(ctx, gateway, metav1.GetOptions{})
	if err != nil {
		return err
	}
	addresses, _, _ := unstructured.NestedSlice(object.Object, "status", "addresses")
	conditions, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Programmed" && c["status"] == "True" && len(addresses) > 0 {
			first, _ := addresses[0].(map[string]any)
			b.address, _ = first["value"].(string)
			return nil
		}
	}
	return errors.New("the Gateway is not Programmed, or has no address")
}

// get requests a path and returns the status code.
func (b *bench) get(ctx context.Context, host, path string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.address+path, nil)
	if err != nil {
		return 0, err
	}
	req.Host = host
	resp, err := b.http.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func host(r int) string { return fmt.Sprintf("%d-route.example.com", r) }

func name(r int) string { return fmt.Sprintf("route-%d", r) }

// route is gateway-api-bench's: one rule that works, one with a missing backend.
func route(r int) *unstructured.Unstructured {
	rule := func(path, service string) map[string]any {
		return map[string]any{
			"matches":     []any{map[string]any{"path": map[string]any{"type": "PathPrefix", "value": path}}},
			"backendRefs": []any{map[string]any{"name": service, "port": int64(80)}},
		}
	}
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
		"metadata": map[string]any{"name": name(r)},
		"spec": map[string]any{
			"parentRefs": []any{map[string]any{"name": gateway}},
			"hostnames":  []any{host(r)},
			"rules":      []any{rule(fmt.Sprintf("/%d", r), backend), rule("/", "missing")},
		},
	}}
}

// oneByOne applies routes and polls each until it answers.
func (b *bench) oneByOne(ctx context.Context, count int, wrong map[int]int) ([]time.Duration, error) {
	var times []time.Duration
	for r := range count {
		start := time.Now()
		if _, err := b.routes.Create(ctx, route(r), metav1.CreateOptions{}); err != nil {
			return nil, err
		}
		for {
			code, err := b.get(ctx, host(r), fmt.Sprintf("/%d", r))
			if err != nil {
				return nil, fmt.Errorf("route %d: %w", r, err)
			}
			if code == http.StatusOK {
				break
			}
			if code != http.StatusNotFound {
				wrong[code]++
			}
			if time.Since(start) > giveUp {
				return nil, fmt.Errorf("route %d: still status %d after %s", r, code, giveUp)
			}
			time.Sleep(pollInterval)
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

// createRoutes creates the routes from one number up to another.
func (b *bench) createRoutes(ctx context.Context, from, to int) error {
	errs := make([]error, to-from)
	workqueue.ParallelizeUntil(ctx, creators, to-from, func(i int) {
		_, errs[i] = b.routes.Create(ctx, route(from+i), metav1.CreateOptions{})
	})
	return errors.Join(errs...)
}

func (b *bench) deleteRoutes(ctx context.Context) error {
	return b.routes.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
}

// allAtOnce creates and deletes routes and counts the writes of the Gateway's
// status meanwhile.
func (b *bench) allAtOnce(ctx context.Context, count int) (attached, error) {
	res := attached{Routes: count}
	object, err := b.gateways.Get(ctx, gateway, metav1.GetOptions{})
	if err != nil {
		return res, err
	}
	watch, err := b.gateways.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + gateway, ResourceVersion: object.GetResourceVersion()})
	if err != nil {
		return res, err
	}
	defer watch.Stop()
	// follow counts the writes until the status has this number of routes, then until there is none for a second.
	follow := func(want int) (writes int, at time.Time, err error) {
		limit := time.After(3 * time.Minute)
		for quiet := (<-chan time.Time)(nil); ; {
			select {
			case event, ok := <-watch.ResultChan():
				object, isGateway := event.Object.(*unstructured.Unstructured)
				if !ok || !isGateway {
					return writes, at, errors.New("the watch ended")
				}
				writes++
				if attachedRoutes(object) != want {
					at, quiet = time.Time{}, nil
				} else if at.IsZero() {
					at, quiet = time.Now(), time.After(time.Second)
				}
			case <-quiet:
				return writes, at, nil
			case <-limit:
				return writes, at, fmt.Errorf("attachedRoutes is not %d", want)
			}
		}
	}
	type followed struct {
		writes int
		at     time.Time
		err    error
	}
	during := func(want int, f func() error) (followed, error) {
		ch := make(chan followed, 1)
		go func() {
			writes, at, err := follow(want)
			ch <- followed{writes, at, err}
		}()
		if err := f(); err != nil {
			return followed{}, err
		}
		end := <-ch
		return end, end.err
	}
	var last time.Time
	end, err := during(count, func() error {
		defer func() { last = time.Now() }()
		return b.createRoutes(ctx, 0, count)
	})
	if err != nil {
		return res, err
	}
	res.Setup, res.SetupWrites = max(0, ms(end.at.Sub(last))), end.writes
	begin := time.Now()
	end, err = during(0, func() error { return b.deleteRoutes(ctx) })
	res.Teardown, res.TeardownWrites = ms(end.at.Sub(begin)), end.writes
	return res, err
}

func attachedRoutes(object *unstructured.Unstructured) int {
	listeners, _, _ := unstructured.NestedSlice(object.Object, "status", "listeners")
	if len(listeners) == 0 {
		return -1
	}
	first, _ := listeners[0].(map[string]any)
	count, _ := first["attachedRoutes"].(int64)
	return int(count)
}

// waitServed waits until the status and the proxy have the routes up to this number.
func (b *bench) waitServed(ctx context.Context, count int) error {
	return until(ctx, 2*giveUp, func() error {
		object, err := b.gateways.Get(ctx, gateway, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if have := attachedRoutes(object); have != count {
			return fmt.Errorf("attachedRoutes is %d, not %d", have, count)
		}
		want, last := http.StatusOK, count-1
		if count == 0 {
			want, last = http.StatusNotFound, 0
		}
		code, err := b.get(ctx, host(last), fmt.Sprintf("/%d", last))
		if err == nil && code != want {
			err = fmt.Errorf("route %d: status %d", last, code)
		}
		return err
	})
}

// memory is the resident memory of a controller and of a proxy: where there
// are several, the largest.
func (b *bench) memory(ctx context.Context) (memoryAtCount, error) {
	var m memoryAtCount
	var err error
	if m.Controller, err = b.resident(ctx, b.system, ""); err != nil {
		return m, err
	}
	m.Proxy, err = b.resident(ctx, namespace, "gateway.networking.k8s.io/gateway-name="+gateway)
	return m, err
}

func (b *bench) resident(ctx context.Context, namespace, selector string) (int64, error) {
	pods, err := b.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return 0, err
	}
	var largest int64
	for _, pod := range pods.Items {
		for _, c := range pod.Status.ContainerStatuses {
			// The test bed's container ids are process ids.
			pid, ok := strings.CutPrefix(c.ContainerID, "process://")
			if !ok || c.State.Running == nil {
				continue
			}
			bytes, err := residentOf(pid)
			if err != nil {
				return 0, err
			}
			largest = max(largest, bytes)
		}
	}
	if largest == 0 {
		return 0, fmt.Errorf("no running pod in %s with labels %q", namespace, selector)
	}
	return largest, nil
}

func residentOf(pid string) (int64, error) {
	data, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			return kb * 1024, err
		}
	}
	return 0, fmt.Errorf("process %s has no VmRSS", pid)
}

// until calls f until it succeeds; its last error when that takes too long.
func until(ctx context.Context, limit time.Duration, f func() error) error {
	for deadline := time.Now().Add(limit); ; {
		err := f()
		if err == nil || ctx.Err() != nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}
