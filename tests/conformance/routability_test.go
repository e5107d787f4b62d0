package conformance

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// serviceCIDR is the test bed's.
var serviceCIDR = netip.MustParsePrefix("10.96.0.0/16")

var routability = suite.ConformanceTest{
	ShortName:   "GatewayAddressRoutability",
	Description: "Addresses are given, and reported, with the routability that was asked for (GEP-5093, conformance test scenarios)",
	Features: []features.FeatureName{
		features.SupportGatewayAddressRoutability, features.SupportGatewayAddressRoutabilityCluster,
	},
	Manifests: []string{"ours/routability.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
		cluster := gatewayv1.GatewayAddressRoutabilityCluster
		gateways := map[string][]gatewayv1.GatewaySpecAddress{
			"routability-default":  nil,
			"routability-cluster":  {{Routability: cluster}},
			"routability-both":     {{}, {Routability: cluster}},
			"routability-sentinel": {{Routability: "testing.x-k8s.io/sentinel"}},
			"routability-static":   {{Routability: cluster, Value: "10.96.77.77"}},
			"routability-unusable": {{Routability: cluster, Value: "192.0.2.1"}},
			"routability-unknown":  {{Routability: "example.com/Nowhere"}},
		}
		// Not in the manifest: the suite takes the addresses out of those.
		for name, addresses := range gateways {
			gateway := &gatewayv1.Gateway{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
				Spec: gatewayv1.GatewaySpec{
					GatewayClassName: gatewayv1.ObjectName(s.GatewayClassName), Addresses: addresses,
					Listeners: []gatewayv1.Listener{{Name: "http", Port: 80, Protocol: gatewayv1.HTTPProtocolType}},
				},
			}
			s.Applier.MustApplyObjectsWithCleanup(t, s.Client, s.TimeoutConfig, []client.Object{gateway}, true)
		}
		// assigned waits for the condition, and returns the routability of each address in the status.
		assigned := func(t *testing.T, name string, status metav1.ConditionStatus, reason gatewayv1.GatewayConditionReason) map[string][]string {
			kubernetes.GatewayMustHaveLatestConditions(t, s.Client, s.TimeoutConfig, named(name))
			kubernetes.GatewayMustHaveCondition(t, s.Client, s.TimeoutConfig, named(name), metav1.Condition{
				Type: string(gatewayv1.GatewayConditionAddressesAssigned), Status: status, Reason: string(reason)})
			gateway := &gatewayv1.Gateway{}
			require.NoError(t, s.Client.Get(t.Context(), named(name), gateway))
			found := map[string][]string{}
			for _, address := range gateway.Status.Addresses {
				require.NotNil(t, address.Routability, "routability of %s", address.Value)
				kind := string(*address.Routability)
				found[kind] = append(found[kind], address.Value)
				if kind == "Cluster" || kind == "" {
					inside := serviceCIDR.Contains(netip.MustParseAddr(address.Value))
					require.Equal(t, kind == "Cluster", inside, "%s is in the range of Services", address.Value)
				}
			}
			return found
		}
		all := gatewayv1.GatewayReasonAddressesAssigned
		t.Run("default", func(t *testing.T) {
			found := assigned(t, "routability-default", metav1.ConditionTrue, all)
			require.Len(t, found, 1)
			require.Len(t, found[""], 1)
		})
		t.Run("Cluster", func(t *testing.T) {
			found := assigned(t, "routability-cluster", metav1.ConditionTrue, all)
			require.Len(t, found, 1)
			require.Len(t, found["Cluster"], 1)
			address := routed(t, s, named("routability-cluster"), "routability")
			require.Contains(t, address, found["Cluster"][0])
			get(t, s, address, http.ExpectedResponse{Request: http.Request{Path: "/"}, Backend: "infra-backend-v1"})
		})
		t.Run("both", func(t *testing.T) {
			found := assigned(t, "routability-both", metav1.ConditionTrue, all)
			require.Len(t, found[""], 1)
			require.Len(t, found["Cluster"], 1)
		})
		t.Run("sentinel", func(t *testing.T) {
			found := assigned(t, "routability-sentinel", metav1.ConditionTrue, all)
			require.Len(t, found, 1)
			require.Len(t, found["testing.x-k8s.io/sentinel"], 1)
		})
		t.Run("static", func(t *testing.T) {
			found := assigned(t, "routability-static", metav1.ConditionTrue, all)
			require.Equal(t, map[string][]string{"Cluster": {"10.96.77.77"}}, found)
		})
		for _, name := range []string{"routability-unusable", "routability-unknown"} {
			t.Run(name, func(t *testing.T) {
				found := assigned(t, name, metav1.ConditionFalse, gatewayv1.GatewayReasonAddressesNotAssigned)
				require.Empty(t, found)
				kubernetes.GatewayMustHaveCondition(t, s.Client, s.TimeoutConfig, named(name), metav1.Condition{
					Type: string(gatewayv1.GatewayConditionProgrammed), Status: metav1.ConditionFalse,
					Reason: string(gatewayv1.GatewayReasonAddressNotAssigned)})
			})
		}
	},
}
