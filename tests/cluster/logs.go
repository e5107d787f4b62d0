package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const kubeletPort = 10250

// copyLog copies a container's output to its log file, each line after the
// time it was read.
func copyLog(w io.WriteCloser, r io.ReadCloser) {
	defer w.Close()
	defer r.Close()
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			_, _ = io.WriteString(w, time.Now().UTC().Format(time.RFC3339Nano)+" "+strings.TrimSuffix(line, "\n")+"\n")
		}
		if err != nil {
			return
		}
	}
}

// serveLogs serves the kubelet's container log endpoint, which the API server
// proxies for "pods/log".
func (k *kubelet) serveLogs(ctx context.Context, cert, key string) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", k.handleLogs)
	srv := &http.Server{Addr: hostPort(bridgeIP, kubeletPort), Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		<-ctx.Done()
		_ = srv.Close()
	}()
	go func() {
		if err := srv.ListenAndServeTLS(cert, key); !errors.Is(err, http.ErrServerClosed) {
			panic(err)
		}
	}()
}

// logFile is the log of a container of the running pod of that name.
func (k *kubelet) logFile(namespace, pod, container string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, w := range k.workers {
		if w.pod.Namespace == namespace && w.pod.Name == pod {
			return filepath.Join(w.logs, container+".log")
		}
	}
	return ""
}

// handleLogs honours sinceTime, sinceSeconds, tailLines, timestamps and follow.
func (k *kubelet) handleLogs(rw http.ResponseWriter, req *http.Request) {
	file, err := os.Open(k.logFile(req.PathValue("namespace"), req.PathValue("pod"), req.PathValue("container")))
	if err != nil {
		http.Error(rw, "no such container", http.StatusNotFound)
		return
	}
	defer file.Close()
	q := req.URL.Query()
	var since time.Time
	if t, err := time.Parse(time.RFC3339, q.Get("sinceTime")); err == nil {
		since = t
	} else if s, err := strconv.Atoi(q.Get("sinceSeconds")); err == nil {
		since = time.Now().Add(-time.Duration(s) * time.Second)
	}
	stamps, follow := q.Get("timestamps") == "true", q.Get("follow") == "true"
	in := bufio.NewReader(file)
	var lines []string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break // an unfinished line is left for a later read
		}
		if l, ok := selectLine(line, since, stamps); ok {
			lines = append(lines, l)
		}
	}
	if n, err := strconv.Atoi(q.Get("tailLines")); err == nil && n < len(lines) {
		lines = lines[len(lines)-n:]
	}
	for _, l := range lines {
		_, _ = io.WriteString(rw, l)
	}
	for follow && sleep(req.Context(), 100*time.Millisecond) {
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			if l, ok := selectLine(line, since, stamps); ok {
				_, _ = io.WriteString(rw, l)
			}
		}
		_ = http.NewResponseController(rw).Flush()
	}
}

// selectLine drops lines from before since, and the time if it is not wanted.
func selectLine(line string, since time.Time, stamps bool) (string, bool) {
	stamp, rest, _ := strings.Cut(line, " ")
	if t, err := time.Parse(time.RFC3339Nano, stamp); err == nil && t.Before(since) {
		return "", false
	}
	if stamps {
		return line, true
	}
	return rest, true
}
