package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

const (
	bridgeName  = "br0"
	bridgeIP    = "10.244.0.1" // also the node's and the API server's address
	podCIDR     = "10.244.0.0/16"
	serviceCIDR = "10.96.0.0/16"
	apiVIP      = "10.96.0.1"     // the Service "kubernetes"
	startEnv    = "TESTBED_START" // set once the program runs inside its namespace
)

// startTime is the time of the first launch, kept across the re-exec.
func startTime() time.Time {
	if ms, err := strconv.ParseInt(os.Getenv(startEnv), 10, 64); err == nil {
		return time.UnixMilli(ms)
	}
	return time.Now()
}

// enterNamespace makes the named network namespace and re-executes the
// program inside it, so that every thread and child is in there too.
func enterNamespace(name string) {
	if os.Getenv(startEnv) != "" {
		return
	}
	deleteNamespace(name)
	if out, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		log.Fatalf("ip netns add: %v: %s", err, out)
	}
	runtime.LockOSThread()
	ns, err := netns.GetFromName(name)
	if err == nil {
		err = netns.Set(ns)
	}
	if err == nil {
		env := append(os.Environ(), fmt.Sprintf("%s=%d", startEnv, time.Now().UnixMilli()))
		err = syscall.Exec("/proc/self/exe", os.Args, env)
	}
	log.Fatalf("entering namespace %s: %v", name, err)
}

// deleteNamespace unlinks the namespace's name; the kernel frees the namespace
// with its last process.
func deleteNamespace(name string) {
	_ = exec.Command("ip", "netns", "del", name).Run()
}

// network hands out pod addresses on one bridge.
type network struct {
	mu     sync.Mutex
	bridge netlink.Link
	next   int
	used   map[string]bool
}

// newNetwork sets up the bridge of the current namespace.
func newNetwork() (*network, error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return nil, err
	}
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}
	if err := netlink.LinkAdd(br); err != nil {
		return nil, err
	}
	addr, err := netlink.ParseAddr(bridgeIP + "/16")
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrAdd(br, addr); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return nil, err
	}
	// A default route lets packets to service addresses reach the NAT hooks;
	// what no rule claims dies on the bridge for want of an ARP answer.
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: br.Index, Scope: netlink.SCOPE_LINK, Src: net.ParseIP(bridgeIP),
		Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}); err != nil {
		return nil, err
	}
	for path, v := range map[string]string{
		"/proc/sys/net/ipv4/ip_forward": "1",
		// Bridged pod-to-pod replies must pass conntrack to be un-NATed.
		"/proc/sys/net/bridge/bridge-nf-call-iptables": "1",
	} {
		if err := os.WriteFile(path, []byte(v), 0o644); err != nil {
			return nil, err
		}
	}
	return &network{bridge: br, next: 1, used: map[string]bool{}}, nil
}

// sandbox is a pod's network namespace, alive while its descriptor is open.
type sandbox struct {
	ns   netns.NsHandle
	ip   string
	veth string
}

// newSandbox makes a network namespace with one address on the bridge.
func (n *network) newSandbox(sysctls []corev1.Sysctl) (*sandbox, error) {
	n.mu.Lock()
	for n.next++; n.used[podIP(n.next)]; n.next++ {
	}
	id := n.next
	if n.next > 65000 {
		n.next = 1
	}
	sb := &sandbox{ip: podIP(id), veth: fmt.Sprintf("veth%d", id)}
	n.used[sb.ip] = true
	n.mu.Unlock()

	var err error
	if sb.ns, err = newNetNS(sysctls); err == nil {
		err = n.connect(sb)
	}
	if err != nil {
		n.release(sb)
		return nil, fmt.Errorf("sandbox %s: %w", sb.ip, err)
	}
	return sb, nil
}

func podIP(id int) string { return fmt.Sprintf("10.244.%d.%d", id>>8, id&255) }

// newNetNS makes a network namespace on a thread that ends right after.
func newNetNS(sysctls []corev1.Sysctl) (netns.NsHandle, error) {
	type result struct {
		ns  netns.NsHandle
		err error
	}
	ch := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ch <- result{err: err}
			return
		}
		for _, s := range sysctls {
			if err := writeSysctl(s); err != nil {
				ch <- result{err: err}
				return
			}
		}
		ns, err := netns.Get()
		ch <- result{ns, err}
	}()
	r := <-ch
	return r.ns, r.err
}

// writeSysctl sets a sysctl of the thread's network namespace.
func writeSysctl(s corev1.Sysctl) error {
	if !strings.HasPrefix(s.Name, "net.") {
		return fmt.Errorf("sysctl %s: only those of the network namespace are supported", s.Name)
	}
	path := filepath.Join("/proc/sys", strings.ReplaceAll(s.Name, ".", "/"))
	return os.WriteFile(path, []byte(s.Value), 0o644)
}

// connect plugs the sandbox into the bridge and gives it its address.
func (n *network) connect(sb *sandbox) error {
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: sb.veth, MasterIndex: n.bridge.Attrs().Index},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsFd(sb.ns),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth: %w", err)
	}
	if err := netlink.LinkSetHairpin(veth, true); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return err
	}
	h, err := netlink.NewHandleAt(sb.ns)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, name := range []string{"lo", "eth0"} {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "eth0" {
			addr, err := netlink.ParseAddr(sb.ip + "/16")
			if err != nil {
				return err
			}
			if err := h.AddrAdd(link, addr); err != nil {
				return err
			}
		}
		if err := h.LinkSetUp(link); err != nil {
			return err
		}
	}
	return h.RouteAdd(&netlink.Route{Gw: net.ParseIP(bridgeIP)})
}

// release frees the sandbox's namespace and address.
func (n *network) release(sb *sandbox) {
	if link, err := netlink.LinkByName(sb.veth); err == nil {
		_ = netlink.LinkDel(link)
	}
	if sb.ns > 0 {
		_ = sb.ns.Close()
	}
	n.mu.Lock()
	delete(n.used, sb.ip)
	n.mu.Unlock()
}

// listening tells whether any socket of the process's namespace accepts
// traffic: a TCP listener or a bound UDP socket.
func listening(pid int) bool {
	for file, state := range map[string]string{"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, file))
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(data), "\n")[1:] {
			if f := strings.Fields(line); len(f) > 3 && f[3] == state {
				return true
			}
		}
	}
	return false
}
