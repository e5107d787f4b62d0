package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
)

const (
	// clusterDomain is the zone of Services: SERVICE.NAMESPACE.svc.cluster.local.
	clusterDomain = "cluster.local"
	// externalDomain has the same Services under names that look like ones outside
	// of the cluster: SERVICE.NAMESPACE.external.test.
	externalDomain = "external.test"
)

// resolvConf is /etc/resolv.conf of a pod in a namespace.
func resolvConf(namespace string) string {
	return fmt.Sprintf("search %[1]s.svc.%[2]s svc.%[2]s %[2]s\nnameserver %[3]s\noptions ndots:5\n", namespace, clusterDomain, bridgeIP)
}

// dnsServer answers A queries for Services: the cluster address, or the ready
// endpoints of a headless one. All else does not exist.
type dnsServer struct {
	services  corelisters.ServiceLister
	endpoints discoverylisters.EndpointSliceLister
}

// startDNS serves on the bridge's address until ctx ends.
func startDNS(ctx context.Context, client kubernetes.Interface) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	d := &dnsServer{
		services:  factory.Core().V1().Services().Lister(),
		endpoints: factory.Discovery().V1().EndpointSlices().Lister(),
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	udp, err := net.ListenPacket("udp", hostPort(bridgeIP, 53))
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", hostPort(bridgeIP, 53))
	if err != nil {
		_ = udp.Close()
		return err
	}
	context.AfterFunc(ctx, func() { _ = udp.Close(); _ = tcp.Close() })
	go d.serveUDP(ctx, udp)
	go d.serveTCP(tcp)
	return nil
}

func (d *dnsServer) serveUDP(ctx context.Context, conn net.PacketConn) {
	buf := make([]byte, 4096)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() == nil {
				log.Printf("DNS: %v", err)
			}
			return
		}
		if answer, err := d.answer(buf[:n]); err == nil {
			_, _ = conn.WriteTo(answer, from)
		}
	}
}

func (d *dnsServer) serveTCP(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_ = d.exchange(conn)
		}()
	}
}

// exchange answers one query, each message after its length (RFC 1035, 4.2.2).
func (d *dnsServer) exchange(conn io.ReadWriter) error {
	var size uint16
	if err := binary.Read(conn, binary.BigEndian, &size); err != nil {
		return err
	}
	query := make([]byte, size)
	if _, err := io.ReadFull(conn, query); err != nil {
		return err
	}
	answer, err := d.answer(query)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	return err
}

// answer builds the response to a query with one question.
func (d *dnsServer) answer(query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	header, err := p.Start(query)
	if err != nil {
		return nil, err
	}
	question, err := p.Question()
	if err != nil {
		return nil, err
	}
	addrs, exists := d.lookup(strings.ToLower(question.Name.String()))
	response := dnsmessage.Header{ID: header.ID, Response: true, Authoritative: true,
		RecursionDesired: header.RecursionDesired, RecursionAvailable: true}
	if !exists {
		response.RCode = dnsmessage.RCodeNameError
	}
	b := dnsmessage.NewBuilder(nil, response)
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(question); err != nil {
		return nil, err
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	if question.Type == dnsmessage.TypeA {
		for _, a := range addrs {
			rh := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: 5}
			if err := b.AResource(rh, dnsmessage.AResource{A: a.As4()}); err != nil {
				return nil, err
			}
		}
	}
	return b.Finish()
}

// lookup finds the IPv4 addresses of a Service by its full name.
func (d *dnsServer) lookup(name string) ([]netip.Addr, bool) {
	short, inside := strings.CutSuffix(name, ".svc."+clusterDomain+".")
	short, outside := strings.CutSuffix(short, "."+externalDomain+".")
	service, namespace, ok := strings.Cut(short, ".")
	if !ok || !inside && !outside {
		return nil, false
	}
	svc, err := d.services.Services(namespace).Get(service)
	if err != nil {
		return nil, false
	}
	if svc.Spec.ClusterIP != corev1.ClusterIPNone {
		addr, err := netip.ParseAddr(svc.Spec.ClusterIP)
		return []netip.Addr{addr}, err == nil && addr.Is4()
	}
	slices, err := d.endpoints.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: service}))
	if err != nil {
		return nil, false
	}
	var addrs []netip.Addr
	for _, s := range slices {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready && !svc.Spec.PublishNotReadyAddresses {
				continue
			}
			for _, text := range e.Addresses {
				if a, err := netip.ParseAddr(text); err == nil && a.Is4() {
					addrs = append(addrs, a)
				}
			}
		}
	}
	return addrs, len(addrs) > 0
}
