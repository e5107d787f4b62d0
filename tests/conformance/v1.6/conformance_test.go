// Package conformance runs the official Gateway API conformance suite, with
// its own command line. "cargo xtask conformance" is the way to run it.
package conformance

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
