package conformance

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
)

var xbackend = suite.ConformanceTest{
	ShortName:   "XBackend",
	Description: "A route sends requests to an XBackend: pods by label, a hostname, with TLS",
	Manifests:   []string{"ours/xbackend.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
		address := routed(t, s, sameNamespace, "xbackend")
		for path, backend := range map[string]string{"/selector": "infra-backend-v2", "/hostname": "infra-backend-v3", "/tls": "tls-backend"} {
			t.Run(strings.TrimPrefix(path, "/"), func(t *testing.T) {
				request := http.Request{Host: "xbackend.example.com", Path: path}
				if path == "/tls" {
					request.SNI = "abc.example.com"
				}
				get(t, s, address, http.ExpectedResponse{Request: request, Backend: backend})
			})
		}
	},
}

// requests is how many are made of each kind: with two pods at least, that all
// go to one by chance happens once in 2^(requests-1) runs.
const requests = 30

var sessionPersistence = suite.ConformanceTest{
	ShortName:   "SessionPersistence",
	Description: "All requests of a session go to one pod; the session is in a cookie or in a header",
	Manifests:   []string{"ours/sessionpersistence.yaml"},
	Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
		address := routed(t, s, sameNamespace, "sessionpersistence")
		// pod makes a request and returns the pod that answered and the session.
		pod := func(t *testing.T, path, header, session string) (string, string) {
			t.Helper()
			expected := http.ExpectedResponse{Namespace: namespace, Request: http.Request{Host: "sessions.example.com", Path: path}}
			if session != "" {
				expected.Request.Headers = map[string]string{header: session}
			}
			request := http.MakeRequest(t, &expected, address, "HTTP", "http")
			captured, response, err := s.RoundTripper.CaptureRoundTrip(request)
			require.NoError(t, err)
			require.Equal(t, 200, response.StatusCode)
			if header == "Cookie" {
				recorder := httptest.NewRecorder()
				for _, value := range response.Headers["Set-Cookie"] {
					recorder.Header().Add("Set-Cookie", value)
				}
				for _, cookie := range recorder.Result().Cookies() {
					if cookie.Name == "session" {
						session = cookie.Name + "=" + cookie.Value
					}
				}
			} else if values := response.Headers[header]; len(values) == 1 {
				session = values[0]
			}
			return captured.Pod, session
		}
		for path, header := range map[string]string{"/cookie": "Cookie", "/header": "X-Session", "/backend": "Cookie"} {
			t.Run(strings.TrimPrefix(path, "/"), func(t *testing.T) {
				get(t, s, address, http.ExpectedResponse{Request: http.Request{Host: "sessions.example.com", Path: path}})
				others := map[string]bool{}
				for range requests {
					name, _ := pod(t, path, header, "")
					others[name] = true
				}
				require.Greater(t, len(others), 1, "without sessions, the pods take turns")
				first, session := pod(t, path, header, "")
				require.NotEmpty(t, session, "the first answer has a session")
				for range requests {
					name, _ := pod(t, path, header, session)
					require.Equal(t, first, name, "the pod of the session")
				}
			})
		}
	},
}
