package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// volumeSyncPeriod is how soon a mounted Secret or ConfigMap follows its object.
const volumeSyncPeriod = 10 * time.Second

// volumes keeps the volumes of one pod.
type volumes struct {
	client kubernetes.Interface
	pod    *corev1.Pod
	dir    string // one subdirectory per volume
	tokens map[string]token
}

// token is a service-account token that is due for renewal at a time.
type token struct {
	text  []byte
	renew time.Time
}

// volumeFile is one file of a volume.
type volumeFile struct {
	data []byte
	mode fs.FileMode
}

// source is where a volume lies on the machine.
func (v *volumes) source(name string) (string, error) {
	for _, vol := range v.pod.Spec.Volumes {
		if vol.Name == name {
			if vol.HostPath != nil {
				return vol.HostPath.Path, nil
			}
			return filepath.Join(v.dir, name), nil
		}
	}
	return "", fmt.Errorf("no volume %q", name)
}

// follow keeps the files as their objects are, and the tokens valid.
func (v *volumes) follow(ctx context.Context) {
	for sleep(ctx, volumeSyncPeriod) {
		if err := v.sync(ctx); err != nil && ctx.Err() == nil {
			log.Printf("pod %s/%s: %v", v.pod.Namespace, v.pod.Name, err)
		}
	}
}

// sync writes the volumes as they have to be now.
func (v *volumes) sync(ctx context.Context) error {
	for i := range v.pod.Spec.Volumes {
		vol := &v.pod.Spec.Volumes[i]
		if err := v.syncOne(ctx, vol); err != nil {
			return fmt.Errorf("volume %s: %w", vol.Name, err)
		}
	}
	return nil
}

func (v *volumes) syncOne(ctx context.Context, vol *corev1.Volume) error {
	if vol.HostPath != nil {
		return nil
	}
	dir := filepath.Join(v.dir, vol.Name)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if vol.EmptyDir != nil {
		return os.Chmod(dir, 0o777)
	}
	p := payload{volumes: v, ctx: ctx, volume: vol.Name, files: map[string]volumeFile{}}
	var err error
	switch {
	case vol.Secret != nil:
		s := vol.Secret
		p.mode(s.DefaultMode)
		err = p.secret(s.SecretName, s.Items, s.Optional)
	case vol.ConfigMap != nil:
		s := vol.ConfigMap
		p.mode(s.DefaultMode)
		err = p.configMap(s.Name, s.Items, s.Optional)
	case vol.DownwardAPI != nil:
		p.mode(vol.DownwardAPI.DefaultMode)
		err = p.downward(vol.DownwardAPI.Items)
	case vol.Projected != nil:
		p.mode(vol.Projected.DefaultMode)
		err = p.projected(vol.Projected.Sources)
	default:
		err = fmt.Errorf("its kind is not supported")
	}
	if err != nil {
		return err
	}
	return v.write(dir, p.files)
}

// write makes dir hold these files and no other. Each is replaced as a whole,
// never seen half written.
func (v *volumes) write(dir string, files map[string]volumeFile) error {
	for name, f := range files {
		path := filepath.Join(dir, name)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, f.data) {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		next := path + ".next"
		if err := os.WriteFile(next, f.data, 0o600); err != nil {
			return err
		}
		mode := f.mode
		if sc := v.pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
			mode |= 0o440
			if err := os.Chown(next, 0, int(*sc.FSGroup)); err != nil {
				return err
			}
		}
		if err := os.Chmod(next, mode); err != nil {
			return err
		}
		if err := os.Rename(next, path); err != nil {
			return err
		}
	}
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if _, ok := files[name]; ok || err != nil {
			return err
		}
		return os.Remove(path)
	})
}

// payload collects the files of one volume.
type payload struct {
	*volumes
	ctx         context.Context
	volume      string
	defaultMode fs.FileMode
	files       map[string]volumeFile
}

func (p *payload) mode(m *int32) {
	p.defaultMode = 0o644
	if m != nil {
		p.defaultMode = fs.FileMode(*m)
	}
}

func (p *payload) add(path string, data []byte, mode *int32) {
	f := volumeFile{data: data, mode: p.defaultMode}
	if mode != nil {
		f.mode = fs.FileMode(*mode)
	}
	p.files[filepath.Clean(path)] = f
}

// addItems adds the chosen keys, or all of them.
func (p *payload) addItems(data map[string][]byte, items []corev1.KeyToPath, optional *bool) error {
	if len(items) == 0 {
		for k := range data {
			items = append(items, corev1.KeyToPath{Key: k, Path: k})
		}
	}
	for _, it := range items {
		value, ok := data[it.Key]
		if !ok {
			if optional != nil && *optional {
				continue
			}
			return fmt.Errorf("no key %q", it.Key)
		}
		p.add(it.Path, value, it.Mode)
	}
	return nil
}

func (p *payload) secret(name string, items []corev1.KeyToPath, optional *bool) error {
	s, err := p.client.CoreV1().Secrets(p.pod.Namespace).Get(p.ctx, name, metav1.GetOptions{})
	if ignorable(err, optional) {
		return nil
	}
	if err != nil {
		return err
	}
	return p.addItems(s.Data, items, optional)
}

func (p *payload) configMap(name string, items []corev1.KeyToPath, optional *bool) error {
	cm, err := p.client.CoreV1().ConfigMaps(p.pod.Namespace).Get(p.ctx, name, metav1.GetOptions{})
	if ignorable(err, optional) {
		return nil
	}
	if err != nil {
		return err
	}
	data := map[string][]byte{}
	for k, d := range cm.BinaryData {
		data[k] = d
	}
	for k, d := range cm.Data {
		data[k] = []byte(d)
	}
	return p.addItems(data, items, optional)
}

func (p *payload) downward(items []corev1.DownwardAPIVolumeFile) error {
	for _, it := range items {
		if it.FieldRef == nil {
			return fmt.Errorf("%s: only fieldRef is supported", it.Path)
		}
		value, err := fieldValue(p.pod, it.FieldRef.FieldPath, "")
		if err != nil {
			return err
		}
		p.add(it.Path, []byte(value), it.Mode)
	}
	return nil
}

// token adds a service-account token bound to the pod, and asks for a new one
// after four fifths of its life, as kubelet does.
func (p *payload) token(t *corev1.ServiceAccountTokenProjection) error {
	key := p.volume + "/" + t.Path
	if have, ok := p.tokens[key]; ok && time.Now().Before(have.renew) {
		p.add(t.Path, have.text, nil)
		return nil
	}
	req := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: t.ExpirationSeconds,
		BoundObjectRef:    &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.pod.Name, UID: p.pod.UID},
	}}
	if t.Audience != "" {
		req.Spec.Audiences = []string{t.Audience}
	}
	asked := time.Now()
	name := p.pod.Spec.ServiceAccountName
	res, err := p.client.CoreV1().ServiceAccounts(p.pod.Namespace).CreateToken(p.ctx, name, req, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	life := res.Status.ExpirationTimestamp.Sub(asked)
	p.tokens[key] = token{text: []byte(res.Status.Token), renew: asked.Add(life * 4 / 5)}
	p.add(t.Path, p.tokens[key].text, nil)
	return nil
}

func (p *payload) projected(sources []corev1.VolumeProjection) error {
	for _, s := range sources {
		var err error
		switch {
		case s.ServiceAccountToken != nil:
			err = p.token(s.ServiceAccountToken)
		case s.ConfigMap != nil:
			err = p.configMap(s.ConfigMap.Name, s.ConfigMap.Items, s.ConfigMap.Optional)
		case s.Secret != nil:
			err = p.secret(s.Secret.Name, s.Secret.Items, s.Secret.Optional)
		case s.DownwardAPI != nil:
			err = p.downward(s.DownwardAPI.Items)
		default:
			err = fmt.Errorf("its source is not supported")
		}
		if err != nil {
			return err
		}
	}
	return nil
}
