package conformance

import (
	"embed"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

//go:embed ours/*.yaml
var manifests embed.FS

// TestPortway has tests in the style of the official ones for features that
// have none there. It uses their base manifests.
func TestPortway(t *testing.T) {
	options := conformance.DefaultOptions(t)
	options.ReportOutputPath = "" // the official report is of the official tests
	options.ManifestFS = []fs.FS{&conformance.Manifests, &manifests}
	s, err := suite.NewConformanceTestSuite(options)
	require.NoError(t, err)
	tests := []suite.ConformanceTest{
		clusterTrustBundle, externalAuth, listenerFilters, routability, sessionPersistence, xbackend,
	}
	s.Setup(t, tests)
	require.NoError(t, s.Run(t, tests))
}
