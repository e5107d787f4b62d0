package conformance

import (
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	gatewayv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/kubernetes"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

const namespace = suite.InfrastructureNamespace

var sameNamespace = named("same-namespace")

func named(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: name}
}

// routed waits until the Gateway serves the route, and returns its address.
func routed(t *testing.T, s *suite.ConformanceTestSuite, gateway types.NamespacedName, route string) string {
	return kubernetes.GatewayAndRoutesMustBeAccepted(t, s.Client, s.TimeoutConfig, s.ControllerName,
		kubernetes.NewGatewayRef(gateway), &gatewayv1.HTTPRoute{}, false, named(route))
}

// get waits until the Gateway answers a request with this status, steadily.
func get(t *testing.T, s *suite.ConformanceTestSuite, address string, expected http.ExpectedResponse) {
	t.Helper()
	if expected.Namespace == "" {
		expected.Namespace = namespace
	}
	http.MakeRequestAndExpectEventuallyConsistentResponse(t, s.RoundTripper, s.TimeoutConfig, address, expected)
}

var clusterTrustBundle = suite.ConformanceTest{
	ShortName:   "ClusterTrustBundle",
	Description: "A BackendTLSPolicy takes its CA certificates from a ClusterTrustBundle",
	Manifests:   []string{"ours/clustertrustbundle.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
		address := routed(t, s, sameNamespace, "clustertrustbundle")
		policy := named("clustertrustbundle")
		resolved := func(status metav1.ConditionStatus, reason gatewayv1.PolicyConditionReason) {
			kubernetes.BackendTLSPolicyMustHaveCondition(t, s.Client, s.TimeoutConfig, policy, sameNamespace, metav1.Condition{
				Type: string(gatewayv1.BackendTLSPolicyConditionResolvedRefs), Status: status, Reason: string(reason)})
		}
		request := http.ExpectedResponse{Request: http.Request{Host: "clustertrustbundle.example.com", Path: "/", SNI: "abc.example.com"}}
		// Without the bundle: an error, not a connection that nobody verifies.
		resolved(metav1.ConditionFalse, gatewayv1.BackendTLSPolicyReasonInvalidCACertificateRef)
		http.MakeRequestAndExpectFailure(t, s.RoundTripper, s.TimeoutConfig, address, request)

		bundle := &unstructured.Unstructured{}
		bundle.SetAPIVersion("certificates.k8s.io/v1")
		bundle.SetKind("ClusterTrustBundle")
		bundle.SetName("portway-conformance")
		set := func(configMap string) {
			data, err := kubernetes.GetConfigMapData(s.Client, s.TimeoutConfig, named(configMap))
			require.NoError(t, err)
			require.NoError(t, unstructured.SetNestedField(bundle.Object, data["ca.crt"], "spec", "trustBundle"))
		}
		set("tls-checks-ca-certificate")
		require.NoError(t, s.Client.Create(t.Context(), bundle))
		t.Cleanup(func() { _ = s.Client.Delete(t.Context(), bundle) })
		resolved(metav1.ConditionTrue, gatewayv1.BackendTLSPolicyReasonResolvedRefs)
		get(t, s, address, request)

		// Another authority's certificate: the backend is not trusted any more.
		set("mismatch-ca-certificate")
		require.NoError(t, s.Client.Update(t.Context(), bundle))
		request.Response.StatusCodes = []int{500, 502, 503}
		get(t, s, address, request)
	},
}

var externalAuth = suite.ConformanceTest{
	ShortName:   "HTTPRouteExternalAuth",
	Description: "An ExternalAuth filter of a rule asks an authorization server, over HTTP or gRPC",
	Manifests:   []string{"ours/externalauth.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
		address := routed(t, s, sameNamespace, "externalauth")
		kubernetes.NamespacesMustBeReady(t, s.Client, s.TimeoutConfig, []string{namespace})
		request := func(rule, path, token string) http.Request {
			headers := map[string]string{"x-rule": rule}
			if token != "" {
				headers["x-token"] = token
			}
			return http.Request{Host: "externalauth.example.com", Path: path, Headers: headers}
		}
		t.Run("HTTP, allowed", func(t *testing.T) {
			get(t, s, address, http.ExpectedResponse{Request: request("http", "/200", ""), Backend: "infra-backend-v1"})
		})
		t.Run("HTTP, denied", func(t *testing.T) {
			get(t, s, address, http.ExpectedResponse{Request: request("http", "/403", ""), Response: http.Response{StatusCodes: []int{403}}})
		})
		t.Run("gRPC, allowed", func(t *testing.T) {
			allowed := request("grpc", "/", "good")
			atBackend := allowed
			atBackend.Headers = map[string]string{"x-rule": "grpc", "x-token": "good", "x-subject": "known"}
			get(t, s, address, http.ExpectedResponse{Request: allowed,
				ExpectedRequest: &http.ExpectedRequest{Path: "/", Host: allowed.Host, Headers: atBackend.Headers}, Backend: "infra-backend-v1"})
		})
		t.Run("gRPC, denied", func(t *testing.T) {
			get(t, s, address, denied(request("grpc", "/", "bad")))
		})
	},
}

// denied is what the gRPC authorization server has the Gateway answer.
func denied(request http.Request) http.ExpectedResponse {
	return http.ExpectedResponse{Request: request,
		Response: http.Response{StatusCodes: []int{403}, Headers: map[string]string{"x-denied": "no-token"}}}
}

var listenerFilters = suite.ConformanceTest{
	ShortName:   "GatewayListenerFilters",
	Description: "The filters of a listener are applied to its requests before any route is, and to no other listener's",
	Manifests:   []string{"ours/externalauth.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
		gateway := named("listener-filters")
		address := routed(t, s, gateway, "listener-filters")
		kubernetes.NamespacesMustBeReady(t, s.Client, s.TimeoutConfig, []string{namespace})
		t.Run("denied", func(t *testing.T) {
			get(t, s, address, denied(http.Request{Path: "/"}))
		})
		t.Run("allowed", func(t *testing.T) {
			get(t, s, address, http.ExpectedResponse{Backend: "infra-backend-v1",
				Request: http.Request{Path: "/", Headers: map[string]string{"x-token": "good"}}})
		})
		t.Run("the other listener", func(t *testing.T) {
			open, err := kubernetes.WaitForGatewayAddress(t, s.Client, s.TimeoutConfig, kubernetes.NewGatewayRef(gateway, "open"))
			require.NoError(t, err)
			get(t, s, open, http.ExpectedResponse{Request: http.Request{Path: "/"}, Backend: "infra-backend-v1"})
		})
	},
}
