package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// podWorker runs one pod from its binding to its deletion.
type podWorker struct {
	k       *kubelet
	pod     *corev1.Pod // as first seen; specs do not change in ways we follow
	dir     string
	logs    string // outlives the pod
	sb      *sandbox
	volumes volumes

	ctx    context.Context // ends when the pod shall end
	cancel context.CancelFunc
	grace  atomic.Int64 // seconds between SIGTERM and SIGKILL

	mu         sync.Mutex
	initOK     bool
	gates      map[corev1.PodConditionType]bool // readiness gates that hold
	statuses   map[string]*corev1.ContainerStatus
	conditions map[corev1.PodConditionType]corev1.PodCondition // as last reported
	changed    chan struct{}
}

func newPodWorker(k *kubelet, pod *corev1.Pod) *podWorker {
	name := fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID)
	w := &podWorker{k: k, pod: pod, dir: filepath.Join(k.opts.dir, "pods", name), logs: filepath.Join(k.opts.dir, "logs", name),
		statuses: map[string]*corev1.ContainerStatus{}, conditions: map[corev1.PodConditionType]corev1.PodCondition{}, changed: make(chan struct{}, 1)}
	w.volumes = volumes{client: k.client, pod: pod, dir: filepath.Join(w.dir, "volumes"), tokens: map[string]token{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	for _, c := range append(append([]corev1.Container{}, pod.Spec.InitContainers...), pod.Spec.Containers...) {
		w.statuses[c.Name] = &corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: c.Image,
			State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}
	}
	return w
}

// terminate begins the pod's end; a later call can only shorten the grace.
func (w *podWorker) terminate(grace int64) {
	if w.ctx.Err() != nil && grace >= w.grace.Load() {
		return
	}
	w.grace.Store(grace)
	w.cancel()
}

// run is the worker's life.
func (w *podWorker) run() {
	reporting := make(chan struct{})
	reportCtx, stopReports := context.WithCancel(context.Background())
	go func() { defer close(reporting); w.report(reportCtx) }()

	prepared := w.retry("sandbox", w.prepare)
	if prepared {
		go w.volumes.follow(w.ctx)
	}
	if prepared && w.runInit() {
		var wg sync.WaitGroup
		for i := range w.pod.Spec.Containers {
			wg.Add(1)
			go func() { defer wg.Done(); w.runContainer(&w.pod.Spec.Containers[i], false) }()
		}
		wg.Wait()
	}
	if w.ctx.Err() == nil { // completed on its own: keep the object, wait for deletion
		<-w.ctx.Done()
	}
	stopReports()
	<-reporting
	if w.sb != nil {
		w.k.net.release(w.sb)
	}
	if err := os.RemoveAll(w.dir); err != nil {
		log.Printf("pod %s: %v", w.pod.Name, err)
	}
	w.deleteObject()
}

// retry calls f until it succeeds; false when the pod shall end.
func (w *podWorker) retry(what string, f func() error) bool {
	last := ""
	for {
		err := f()
		if err == nil {
			return true
		}
		if err.Error() != last && w.ctx.Err() == nil {
			last = err.Error()
			log.Printf("pod %s/%s: %s: %v", w.pod.Namespace, w.pod.Name, what, err)
		}
		select {
		case <-w.ctx.Done():
			return false
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// prepare makes the sandbox and the volumes. It is retried as a whole: a
// Secret may be created after the pod that mounts it.
func (w *podWorker) prepare() error {
	for _, d := range []string{w.dir, w.logs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := w.volumes.sync(w.ctx); err != nil {
		return err
	}
	if w.sb == nil {
		var sysctls []corev1.Sysctl
		if sc := w.pod.Spec.SecurityContext; sc != nil {
			sysctls = sc.Sysctls
		}
		sb, err := w.k.net.newSandbox(sysctls)
		if err != nil {
			return err
		}
		w.sb = sb
	}
	hosts := fmt.Sprintf("127.0.0.1 localhost\n::1 localhost\n%s %s\n", w.sb.ip, w.pod.Name)
	if err := os.WriteFile(filepath.Join(w.dir, "hosts"), []byte(hosts), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(w.dir, "resolv.conf"), []byte(resolvConf(w.pod.Namespace)), 0o644)
}

// runInit runs the init containers; those with restartPolicy Always (sidecars)
// stay running beside the rest.
func (w *podWorker) runInit() bool {
	for i := range w.pod.Spec.InitContainers {
		c := &w.pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			go w.runContainer(c, false)
			continue
		}
		if !w.runContainer(c, true) {
			return false
		}
	}
	w.mu.Lock()
	w.initOK = true
	w.mu.Unlock()
	w.poke()
	return true
}

// runContainer runs a container and restarts it as its policy says. For an
// init container it returns true once it has succeeded.
func (w *podWorker) runContainer(c *corev1.Container, init bool) bool {
	delay := 500 * time.Millisecond
	for w.ctx.Err() == nil {
		code, err := w.runOnce(c)
		if w.ctx.Err() != nil {
			break
		}
		if err != nil {
			w.setState(c.Name, func(s *corev1.ContainerStatus) {
				s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CreateContainerError", Message: err.Error()}}
			})
			log.Printf("pod %s/%s: container %s: %v", w.pod.Namespace, w.pod.Name, c.Name, err)
		}
		if err == nil && code == 0 && (init || w.pod.Spec.RestartPolicy != corev1.RestartPolicyAlways) {
			return true
		}
		if err == nil && w.pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
			return false
		}
		select {
		case <-w.ctx.Done():
		case <-time.After(delay):
		}
		delay = min(2*delay, 10*time.Second)
		w.setState(c.Name, func(s *corev1.ContainerStatus) { s.RestartCount++ })
	}
	return false
}

// runOnce runs a container's process to its end.
func (w *podWorker) runOnce(c *corev1.Container) (int, error) {
	spec, err := w.processSpec(c)
	if err != nil {
		return 0, err
	}
	p, err := startProcess(spec)
	if err != nil {
		return 0, err
	}
	started := metav1.Now()
	w.setState(c.Name, func(s *corev1.ContainerStatus) {
		s.State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}
		s.ContainerID = fmt.Sprintf("process://%d", p.pid)
		s.Started = ptr(true)
	})
	probing, stopProbes := context.WithCancel(w.ctx)
	go w.probe(probing, c, p)

	select {
	case <-p.done:
	case <-w.ctx.Done():
		w.shutdown(c, p)
	}
	stopProbes()
	code := p.exitCode
	w.setState(c.Name, func(s *corev1.ContainerStatus) {
		s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: int32(code), Reason: reason(code), StartedAt: started, FinishedAt: metav1.Now()}}
		s.LastTerminationState = s.State
		s.Ready, s.Started = false, ptr(false)
	})
	return code, nil
}

// shutdown runs the preStop hook (sleep only), sends SIGTERM, then SIGKILL
// after the grace period, which a second deletion may shorten meanwhile.
func (w *podWorker) shutdown(c *corev1.Container, p *process) {
	begin, asked := time.Now(), false
	var hook time.Duration
	if l := c.Lifecycle; l != nil && l.PreStop != nil && l.PreStop.Sleep != nil {
		hook = time.Duration(l.PreStop.Sleep.Seconds) * time.Second
	}
	for {
		since := time.Since(begin)
		if since >= hook && !asked {
			p.signal(syscall.SIGTERM)
			asked = true
		}
		if since >= time.Duration(w.grace.Load())*time.Second {
			p.signal(syscall.SIGKILL)
		}
		select {
		case <-p.done:
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// observe takes note of the conditions that others keep in the pod's status.
func (w *podWorker) observe(pod *corev1.Pod) {
	if len(pod.Spec.ReadinessGates) == 0 {
		return
	}
	gates := map[corev1.PodConditionType]bool{}
	for _, c := range pod.Status.Conditions {
		gates[c.Type] = c.Status == corev1.ConditionTrue
	}
	w.mu.Lock()
	w.gates = gates
	w.mu.Unlock()
	w.poke()
}

func (w *podWorker) setState(container string, change func(*corev1.ContainerStatus)) {
	w.mu.Lock()
	change(w.statuses[container])
	w.mu.Unlock()
	w.poke()
}

func (w *podWorker) poke() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// report writes the pod's status each time it has changed.
func (w *podWorker) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		}
		patch, err := json.Marshal(map[string]any{"status": w.status()})
		if err != nil {
			log.Print(err)
			return
		}
		_, err = w.k.client.CoreV1().Pods(w.pod.Namespace).Patch(ctx, w.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		if err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			log.Printf("pod %s/%s: status: %v", w.pod.Namespace, w.pod.Name, err)
			time.Sleep(100 * time.Millisecond)
			w.poke()
		}
	}
}

// status computes the pod's status from its containers' states.
func (w *podWorker) status() corev1.PodStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := corev1.PodStatus{HostIP: bridgeIP, HostIPs: []corev1.HostIP{{IP: bridgeIP}}, StartTime: &w.pod.CreationTimestamp}
	if w.sb != nil {
		st.PodIP, st.PodIPs = w.sb.ip, []corev1.PodIP{{IP: w.sb.ip}}
	}
	ready, running, failed := true, 0, 0
	for _, c := range w.pod.Spec.Containers {
		s := w.statuses[c.Name]
		st.ContainerStatuses = append(st.ContainerStatuses, *s)
		ready = ready && s.Ready
		switch t := s.State.Terminated; {
		case t == nil || w.pod.Spec.RestartPolicy == corev1.RestartPolicyAlways:
			running++
		case t.ExitCode != 0:
			failed++
		}
	}
	for _, c := range w.pod.Spec.InitContainers {
		st.InitContainerStatuses = append(st.InitContainerStatuses, *w.statuses[c.Name])
	}
	switch {
	case !w.initOK:
		st.Phase = corev1.PodPending
	case running > 0:
		st.Phase = corev1.PodRunning
	case failed > 0:
		st.Phase = corev1.PodFailed
	default:
		st.Phase = corev1.PodSucceeded
	}
	condition := func(kind corev1.PodConditionType, ok bool) {
		c := corev1.PodCondition{Type: kind, Status: corev1.ConditionFalse, LastTransitionTime: metav1.Now()}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		if last := w.conditions[kind]; last.Status == c.Status {
			c = last
		}
		w.conditions[kind] = c
		st.Conditions = append(st.Conditions, c)
	}
	condition(corev1.PodInitialized, w.initOK)
	condition(corev1.ContainersReady, ready)
	for _, gate := range w.pod.Spec.ReadinessGates {
		ready = ready && w.gates[gate.ConditionType]
	}
	condition(corev1.PodReady, ready)
	return st
}

// deleteObject removes the Pod object once nothing of the pod is left.
func (w *podWorker) deleteObject() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := w.k.client.CoreV1().Pods(w.pod.Namespace).Delete(ctx, w.pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: ptr(int64(0)), Preconditions: &metav1.Preconditions{UID: &w.pod.UID}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		log.Printf("pod %s/%s: delete: %v", w.pod.Namespace, w.pod.Name, err)
	}
}

func reason(code int) string {
	if code == 0 {
		return "Completed"
	}
	return "Error"
}

func ptr[T any](v T) *T { return &v }
