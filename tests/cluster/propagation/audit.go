package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"time"
)

// restPeriod is how long nothing changes while the controller's writes are counted.
const restPeriod = 10 * time.Second

// auditEvent is what is read of a line of the API server's audit log.
type auditEvent struct {
	Verb string
	User struct{ Username string }
	// ObjectRef is absent for requests that are not about resources.
	ObjectRef struct{ Resource, Subresource string }
}

// writesAtRest counts what the controller's service accounts write while
// nothing changes, by verb and resource. Leases are renewed: they do not count.
func (b *bench) writesAtRest(ctx context.Context) (map[string]int, error) {
	file, err := os.Open(b.audit)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if _, err := file.Seek(0, io.SeekEnd); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(restPeriod):
	}
	writes := map[string]int{}
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // the last line may be half written
		}
		switch e.Verb {
		case "get", "list", "watch":
			continue
		}
		r := e.ObjectRef
		if !strings.HasPrefix(e.User.Username, "system:serviceaccount:"+b.system+":") || r.Resource == "leases" {
			continue
		}
		writes[strings.TrimSuffix(e.Verb+" "+r.Resource+"/"+r.Subresource, "/")]++
	}
	return writes, lines.Err()
}
