// Load sends requests to one URL until it is told to stop, and counts those
// that fail. Nothing is tried again: a request that fails is one that a user
// would have seen.
//
//	load -url http://172.20.0.1/ -host shop.example -output result.json
//	load -url http://172.20.0.1/ -host shop.example -once
//
// Three kinds of clients send at once: those that keep their connection until
// an answer says that it closes, those that make one for each request, and
// HTTP/2 clients.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

const (
	// patience is how long one request may take, connecting included.
	patience = 10 * time.Second
	// told is how many failures are described.
	told = 20
)

// result is what became of the requests of one kind of clients.
type result struct {
	Requests int      `json:"requests"`
	Failed   int      `json:"failed"`
	Longest  float64  `json:"longestMs"`
	Failures []string `json:"failures,omitempty"` // the first ones

	mu sync.Mutex
}

func (r *result) note(took time.Duration, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Requests++
	r.Longest = max(r.Longest, float64(took.Microseconds())/1000)
	if err == nil {
		return
	}
	r.Failed++
	if len(r.Failures) < told {
		r.Failures = append(r.Failures, time.Now().UTC().Format("15:04:05.000")+" "+err.Error())
	}
}

// target is what the clients ask for.
type target struct {
	url  *url.URL
	host string
}

// client makes one request after the other.
type client interface {
	get(ctx context.Context) error
}

func main() {
	log.SetFlags(0)
	address := flag.String("url", "", "what to request")
	host := flag.String("host", "", "the requests' Host")
	clients := flag.Int("clients", 4, "clients of each kind")
	pause := flag.Duration("pause", 10*time.Millisecond, "between two requests of a client")
	output := flag.String("output", "", "file for the result, as JSON")
	once := flag.Bool("once", false, "make one request and print the head of its answer")
	flag.Parse()
	parsed, err := url.Parse(*address)
	if err != nil || parsed.Host == "" {
		log.Fatalf("-url %q: %v", *address, err)
	}
	if parsed.Port() == "" {
		parsed.Host = net.JoinHostPort(parsed.Hostname(), "80")
	}
	to := target{url: parsed, host: *host}
	if *once {
		if err := show(to); err != nil {
			log.Fatal(err)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	results := map[string]*result{"keepAlive": {}, "newConnections": {}, "http2": {}}
	kinds := map[string]func() client{
		"keepAlive":      func() client { return &keepAlive{to: to} },
		"newConnections": func() client { return &keepAlive{to: to, once: true} },
		"http2":          func() client { return newHTTP2(to) },
	}
	var all sync.WaitGroup
	for kind, result := range results {
		for range *clients {
			client := kinds[kind]()
			all.Go(func() { run(ctx, client, *pause, result) })
		}
	}
	all.Wait()
	data, err := json.MarshalIndent(results, "", "  ")
	if err == nil {
		err = os.WriteFile(*output, append(data, '\n'), 0o644)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// show prints the head of one answer.
func show(to target) error {
	request, err := http.NewRequest(http.MethodGet, to.url.String(), nil)
	if err != nil {
		return err
	}
	request.Host = to.host
	response, err := (&http.Client{Timeout: patience}).Do(request)
	if err != nil {
		return err
	}
	_ = response.Body.Close()
	fmt.Println(response.StatusCode)
	return response.Header.Write(os.Stdout)
}

// run sends requests until ctx ends; one that is under way then is let finish.
func run(ctx context.Context, client client, pause time.Duration, result *result) {
	for ctx.Err() == nil {
		start := time.Now()
		request, cancel := context.WithTimeout(context.Background(), patience)
		err := client.get(request)
		cancel()
		result.note(time.Since(start), err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// keepAlive uses one connection until an answer says that it closes. Unlike
// net/http, it does not send a request again whose connection was closed.
type keepAlive struct {
	to   target
	once bool // asks for a new connection each time
	conn net.Conn
	in   *bufio.Reader
}

func (k *keepAlive) get(ctx context.Context) error {
	closes, err := k.exchange(ctx)
	if (closes || err != nil) && k.conn != nil {
		_ = k.conn.Close()
		k.conn = nil
	}
	return err
}

func (k *keepAlive) exchange(ctx context.Context) (closes bool, err error) {
	if k.conn == nil {
		var dialer net.Dialer
		if k.conn, err = dialer.DialContext(ctx, "tcp", k.to.url.Host); err != nil {
			return true, err
		}
		k.in = bufio.NewReader(k.conn)
	}
	if deadline, ok := ctx.Deadline(); ok {
		_ = k.conn.SetDeadline(deadline)
	}
	connection := "keep-alive"
	if k.once {
		connection = "close"
	}
	_, err = fmt.Fprintf(k.conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: %s\r\n\r\n", k.to.url.RequestURI(), k.to.host, connection)
	if err != nil {
		return true, fmt.Errorf("from %s: %w", k.conn.LocalAddr(), err)
	}
	response, err := http.ReadResponse(k.in, nil)
	if err != nil {
		return true, fmt.Errorf("from %s: %w", k.conn.LocalAddr(), err)
	}
	return response.Close || k.once, drain(response)
}

// drain reads a response to its end; one that is not 200 is an error.
func drain(response *http.Response) error {
	_, err := io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", response.Status)
	}
	return err
}

// http2 keeps a connection; after GOAWAY it makes another.
type http2 struct {
	to     target
	client http.Client
}

func newHTTP2(to target) client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	return &http2{to: to, client: http.Client{Transport: transport}}
}

func (h *http2) get(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, h.to.url.String(), nil)
	if err != nil {
		return err
	}
	request.Host = h.to.host
	response, err := h.client.Do(request)
	if err != nil {
		return err
	}
	return drain(response)
}
