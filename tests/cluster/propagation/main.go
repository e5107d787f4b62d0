// Propagation measures, in a running cluster, how soon a change to routes is
// seen by clients and in statuses, and what memory the routes cost. It follows
// gateway-api-bench (https://github.com/howardjohn/gateway-api-bench), tests
// "probe" and "attached routes".
//
//	KUBECONFIG=… propagation -routes 1000 -many 5000 -output result.json
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"slices"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

// result is what is measured. Times are in milliseconds, memory in bytes.
type result struct {
	Routes      int             `json:"routes"`
	Propagation distribution    `json:"propagation"`
	WrongAnswer map[int]int     `json:"wrongAnswers"` // by status code, other than 404 and 200
	Attached    attached        `json:"attachedRoutes"`
	Memory      []memoryAtCount `json:"memory"`
	Rest        map[string]int  `json:"writesAtRest"` // in restPeriod, by verb and resource
}

// distribution is of the times from the request to the API server to the first
// good answer.
type distribution struct {
	Median float64 `json:"medianMs"`
	P99    float64 `json:"p99Ms"`
	Max    float64 `json:"maxMs"`
}

// attached is of routes that are created, then deleted, all at once.
type attached struct {
	Routes         int     `json:"routes"`
	Setup          float64 `json:"setupMs"` // from the last create to the right count
	SetupWrites    int     `json:"setupStatusWrites"`
	Teardown       float64 `json:"teardownMs"` // from the begin of the deletes to the count 0
	TeardownWrites int     `json:"teardownStatusWrites"`
}

// memoryAtCount is the resident memory of the largest controller and proxy pod.
type memoryAtCount struct {
	Routes     int   `json:"routes"`
	Controller int64 `json:"controllerBytes"`
	Proxy      int64 `json:"proxyBytes"`
}

func main() {
	log.SetFlags(log.Ltime)
	routes := flag.Int("routes", 1000, "routes to apply one by one, and at once")
	many := flag.Int("many", 5000, "routes of the last measurement of memory")
	class := flag.String("class", "portway", "GatewayClass")
	system := flag.String("system-namespace", "portway-system", "namespace of the controller")
	audit := flag.String("audit", "", "the API server's audit log")
	output := flag.String("output", "", "file for the result, as JSON")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		log.Fatal(err)
	}
	cfg.QPS = -1
	b, err := newBench(cfg, *class, *system, *audit)
	if err != nil {
		log.Fatal(err)
	}
	res, err := b.run(ctx, *routes, *many)
	if err != nil {
		log.Fatal(err)
	}
	res.print()
	if *output != "" {
		data, err := json.MarshalIndent(res, "", "  ")
		if err == nil {
			err = os.WriteFile(*output, append(data, '\n'), 0o644)
		}
		if err != nil {
			log.Fatal(err)
		}
	}
}

// run makes all measurements.
func (b *bench) run(ctx context.Context, routes, many int) (*result, error) {
	res := &result{Routes: routes, WrongAnswer: map[int]int{}}
	if err := b.setUp(ctx); err != nil {
		return nil, fmt.Errorf("set-up: %w", err)
	}
	sample := func(count int) error {
		if err := b.waitServed(ctx, count); err != nil {
			return err
		}
		m, err := b.memory(ctx)
		m.Routes = count
		res.Memory = append(res.Memory, m)
		return err
	}
	if err := sample(0); err != nil {
		return nil, err
	}
	log.Printf("%d routes one by one", routes)
	times, err := b.oneByOne(ctx, routes, res.WrongAnswer)
	if err != nil {
		return nil, err
	}
	res.Propagation = describe(times)
	if err := sample(routes); err != nil {
		return nil, err
	}
	if many > routes {
		log.Printf("up to %d routes", many)
		if err := b.createRoutes(ctx, routes, many); err != nil {
			return nil, err
		}
		if err := sample(many); err != nil {
			return nil, err
		}
	}
	log.Printf("at rest for %s", restPeriod)
	rest, err := b.writesAtRest(ctx)
	if err != nil {
		return nil, err
	}
	res.Rest = rest
	log.Print("deleting them")
	if err := b.deleteRoutes(ctx); err != nil {
		return nil, err
	}
	if err := b.waitServed(ctx, 0); err != nil {
		return nil, err
	}
	log.Printf("%d routes at once", routes)
	res.Attached, err = b.allAtOnce(ctx, routes)
	return res, err
}

func describe(times []time.Duration) distribution {
	if len(times) == 0 {
		return distribution{}
	}
	slices.Sort(times)
	at := func(q float64) float64 { return ms(times[int(q*float64(len(times)-1))]) }
	return distribution{Median: at(0.5), P99: at(0.99), Max: at(1)}
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *result) print() {
	fmt.Printf("propagation of %d routes: median %.1f ms, p99 %.1f ms, max %.1f ms, wrong answers %v\n",
		r.Routes, r.Propagation.Median, r.Propagation.P99, r.Propagation.Max, r.WrongAnswer)
	a := r.Attached
	fmt.Printf("%d routes at once: count right after %.0f ms, %d Gateway status writes; removed: %.0f ms, %d writes\n",
		a.Routes, a.Setup, a.SetupWrites, a.Teardown, a.TeardownWrites)
	fmt.Printf("writes of the controller in %s without changes: %v\n", restPeriod, r.Rest)
	for _, m := range r.Memory {
		fmt.Printf("memory at %d routes: controller %.1f MB, proxy %.1f MB\n",
			m.Routes, float64(m.Controller)/1e6, float64(m.Proxy)/1e6)
	}
}
