package main

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/third_party/forked/golang/expansion"
)

// processSpec turns a container into what startProcess needs.
func (w *podWorker) processSpec(c *corev1.Container) (*processSpec, error) {
	file, ok := w.k.opts.images.find(c.Image)
	if !ok {
		return nil, fmt.Errorf("no program is mapped to image %s", c.Image)
	}
	// The image's one file appears at the root, as in a distroless image.
	entry := "/" + filepath.Base(file)
	env, vars, err := w.environment(c)
	if err != nil {
		return nil, err
	}
	expand := expansion.MappingFuncFor(vars)
	argv := []string{entry}
	if len(c.Command) > 0 {
		argv = nil
	}
	for _, a := range append(append([]string{}, c.Command...), c.Args...) {
		argv = append(argv, expansion.Expand(a, expand))
	}
	sec, err := securityOf(w.pod, c)
	if err != nil {
		return nil, err
	}
	s := &processSpec{
		security: sec,
		ns:       w.sb.ns, hostname: w.pod.Name, argv: argv, env: env, cwd: c.WorkingDir,
		dir:     filepath.Join(w.dir, "containers", c.Name),
		logFile: filepath.Join(w.logs, c.Name+".log"),
		mounts: []mount{
			{src: file, dst: entry, readOnly: true},
			{src: filepath.Join(w.dir, "hosts"), dst: "/etc/hosts"},
			{src: filepath.Join(w.dir, "resolv.conf"), dst: "/etc/resolv.conf"},
		},
	}
	if s.cwd == "" {
		s.cwd = "/"
	}
	for _, m := range c.VolumeMounts {
		src, err := w.volumes.source(m.Name)
		if err != nil {
			return nil, err
		}
		s.mounts = append(s.mounts, mount{src: filepath.Join(src, m.SubPath), dst: m.MountPath, readOnly: m.ReadOnly})
	}
	return s, nil
}

// environment resolves a container's variables, as a list and as a map.
func (w *podWorker) environment(c *corev1.Container) ([]string, map[string]string, error) {
	vars := map[string]string{}
	list := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		"HOSTNAME=" + w.pod.Name, "KUBERNETES_SERVICE_HOST=" + apiVIP, "KUBERNETES_SERVICE_PORT=443",
	}
	add := func(name, value string) {
		vars[name] = value
		list = append(list, name+"="+value)
	}
	for _, from := range c.EnvFrom {
		var data map[string]string
		var err error
		switch {
		case from.ConfigMapRef != nil:
			data, err = w.configMap(from.ConfigMapRef.Name, from.ConfigMapRef.Optional)
		case from.SecretRef != nil:
			data, err = w.secret(from.SecretRef.Name, from.SecretRef.Optional)
		}
		if err != nil {
			return nil, nil, err
		}
		for k, v := range data {
			add(from.Prefix+k, v)
		}
	}
	for _, e := range c.Env {
		value := expansion.Expand(e.Value, expansion.MappingFuncFor(vars))
		if f := e.ValueFrom; f != nil {
			var err error
			var data map[string]string
			switch {
			case f.FieldRef != nil:
				value, err = fieldValue(w.pod, f.FieldRef.FieldPath, w.sb.ip)
			case f.ConfigMapKeyRef != nil:
				data, err = w.configMap(f.ConfigMapKeyRef.Name, f.ConfigMapKeyRef.Optional)
				value = data[f.ConfigMapKeyRef.Key]
			case f.SecretKeyRef != nil:
				data, err = w.secret(f.SecretKeyRef.Name, f.SecretKeyRef.Optional)
				value = data[f.SecretKeyRef.Key]
			case f.ResourceFieldRef != nil:
				value = resourceValue(c, f.ResourceFieldRef)
			}
			if err != nil {
				return nil, nil, err
			}
		}
		add(e.Name, value)
	}
	return list, vars, nil
}

func (w *podWorker) configMap(name string, optional *bool) (map[string]string, error) {
	cm, err := w.k.client.CoreV1().ConfigMaps(w.pod.Namespace).Get(w.ctx, name, metav1.GetOptions{})
	if ignorable(err, optional) {
		return nil, nil
	}
	return cm.Data, err
}

func (w *podWorker) secret(name string, optional *bool) (map[string]string, error) {
	s, err := w.k.client.CoreV1().Secrets(w.pod.Namespace).Get(w.ctx, name, metav1.GetOptions{})
	if ignorable(err, optional) {
		return nil, nil
	}
	data := map[string]string{}
	for k, v := range s.Data {
		data[k] = string(v)
	}
	return data, err
}

func ignorable(err error, optional *bool) bool {
	return apierrors.IsNotFound(err) && optional != nil && *optional
}

// fieldValue resolves a downward-API field.
func fieldValue(pod *corev1.Pod, path, ip string) (string, error) {
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return keyValues(pod.Labels), nil
	case "metadata.annotations":
		return keyValues(pod.Annotations), nil
	case "spec.nodeName":
		return nodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.podIP", "status.podIPs":
		return ip, nil
	case "status.hostIP", "status.hostIPs":
		return bridgeIP, nil
	}
	for prefix, m := range map[string]map[string]string{"metadata.labels['": pod.Labels, "metadata.annotations['": pod.Annotations} {
		if key, ok := strings.CutPrefix(path, prefix); ok {
			return m[strings.TrimSuffix(key, "']")], nil
		}
	}
	return "", fmt.Errorf("fieldPath %q is not supported", path)
}

func keyValues(m map[string]string) string {
	var b strings.Builder
	for k, v := range m {
		fmt.Fprintf(&b, "%s=%q\n", k, v)
	}
	return b.String()
}

// resourceValue resolves limits.* and requests.* (whole units; 0 if unset).
func resourceValue(c *corev1.Container, ref *corev1.ResourceFieldSelector) string {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := c.Resources.Limits
	if kind == "requests" {
		list = c.Resources.Requests
	}
	q := list[corev1.ResourceName(name)]
	return strconv.FormatInt(q.Value(), 10)
}
