package main

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// security is what the security contexts of a pod and a container ask for.
type security struct {
	uid, gid     uint32
	groups       []uint32
	capabilities []string // the bounding set, without "CAP_"; all if privileged
	privileged   bool
	noNewPrivs   bool
	readOnlyRoot bool
}

// capabilityNames are in the order of the kernel's numbers.
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE",
	"SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
	"SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
}

// defaultCapabilities is what containerd leaves a container.
var defaultCapabilities = []string{
	"CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP", "SETPCAP",
	"NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
}

// securityOf joins both security contexts; the container's fields win.
func securityOf(pod *corev1.Pod, c *corev1.Container) (security, error) {
	s := security{capabilities: defaultCapabilities}
	nonRoot := false
	if sc := pod.Spec.SecurityContext; sc != nil {
		set(&s.uid, sc.RunAsUser)
		set(&s.gid, sc.RunAsGroup)
		nonRoot = sc.RunAsNonRoot != nil && *sc.RunAsNonRoot
		if sc.FSGroup != nil {
			s.groups = append(s.groups, uint32(*sc.FSGroup))
		}
		for _, g := range sc.SupplementalGroups {
			s.groups = append(s.groups, uint32(g))
		}
	}
	if sc := c.SecurityContext; sc != nil {
		set(&s.uid, sc.RunAsUser)
		set(&s.gid, sc.RunAsGroup)
		if sc.RunAsNonRoot != nil {
			nonRoot = *sc.RunAsNonRoot
		}
		s.privileged = sc.Privileged != nil && *sc.Privileged
		s.noNewPrivs = sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation
		s.readOnlyRoot = sc.ReadOnlyRootFilesystem != nil && *sc.ReadOnlyRootFilesystem
		if sc.Capabilities != nil {
			s.capabilities = capabilities(sc.Capabilities)
		}
	}
	if nonRoot && s.uid == 0 {
		return s, fmt.Errorf("runAsNonRoot is set and the container would run as root: set runAsUser")
	}
	return s, nil
}

func set(to *uint32, from *int64) {
	if from != nil {
		*to = uint32(*from)
	}
}

// capabilities applies drop, then add, to the default set.
func capabilities(c *corev1.Capabilities) []string {
	names := slices.Clone(defaultCapabilities)
	for _, d := range c.Drop {
		if d == "ALL" {
			names = nil
		}
		names = slices.DeleteFunc(names, func(n string) bool { return n == capabilityName(d) })
	}
	for _, a := range c.Add {
		if a == "ALL" {
			return capabilityNames
		}
		names = append(names, capabilityName(a))
	}
	return names
}

func capabilityName(c corev1.Capability) string {
	return strings.TrimPrefix(strings.ToUpper(string(c)), "CAP_")
}

// restrict takes from the calling thread, for good, what the programs that it
// starts shall not have. The thread's own rights last until it ends.
func (s *security) restrict() error {
	if s.noNewPrivs {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("no_new_privs: %w", err)
		}
	}
	if s.privileged {
		return nil
	}
	for number, name := range capabilityNames {
		if slices.Contains(s.capabilities, name) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(number), 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("dropping %s: %w", name, err)
		}
	}
	return nil
}
