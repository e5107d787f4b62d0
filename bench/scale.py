#!/usr/bin/env python3
"""Measures Portway with many HTTPRoutes in files: start, memory, and one changed route.

  scale.py [--routes 10000] [--per-file 1] [--changes 20] [--rich]

Prints the time from exec to the first 200 of the last route, the memory once it serves (PSS), and for each
of some edits of one route the time from the file's replacement to the first answer of the new route.
"""
import argparse
import http.client
import os
import shutil
import statistics
import subprocess
import sys
import time

from benchkit.layout import BIN, FIRST_PORT, HTTP_BACKEND_PORTS, LOGS, RUN
from benchkit.peers import PORTWAY_BIN
from benchkit.process import Process, wait_until

PORT = FIRST_PORT + 900
HEAD = f'''apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: portway}}
spec: {{controllerName: portway.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: scale, namespace: default}}
spec:
  gatewayClassName: portway
  listeners:
  - {{name: http, port: {PORT}, protocol: HTTP}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: default}}
spec:
  ports: [{{name: web, port: 80}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: default
  labels: {{kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{{name: web, port: {HTTP_BACKEND_PORTS[0]}}}]
endpoints:
- addresses: [127.0.0.1]
'''


def extras(number):
    """A second match with a header, and a filter."""
    return f'''    - path:
        type: Exact
        value: /exact
      headers:
      - name: x-version
        value: two
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set:
        - name: x-route
          value: "{number}"
'''


def route(number, rich, path='/'):
    return f'''apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: route-{number}
  namespace: default
spec:
  parentRefs:
  - name: scale
  hostnames:
  - h{number}.scale.test
  rules:
  - matches:
    - path:
        type: PathPrefix
        value: {path}
{extras(number) if rich else ''}    backendRefs:
    - name: web
      port: 80
'''


def status(host, path='/'):
    connection = http.client.HTTPConnection('127.0.0.1', PORT, timeout=5)
    try:
        connection.request('GET', path, headers={'Host': host})
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


def write(folder, args):
    shutil.rmtree(folder, ignore_errors=True)
    (folder / 'routes').mkdir(parents=True)
    (folder / 'gateway.yaml').write_text(HEAD)
    for first in range(0, args.routes, args.per_file):
        numbers = range(first, min(first + args.per_file, args.routes))
        (folder / 'routes' / f'route-{first}.yaml').write_text('---\n'.join(route(n, args.rich) for n in numbers))


def change(folder, host, number, rich, path, before, probe, after):
    """Replaces the route's file by renaming a new one over it; returns the ms until `probe`, which was
    answered with `before`, is answered with `after`."""
    new = folder.parent / 'changed.yaml'
    new.write_text(route(number, rich, path))
    if status(host, probe) != before:
        sys.exit(f'{host}{probe} is not {before} before the change')
    os.replace(new, folder / 'routes' / f'route-{number}.yaml')
    started = time.perf_counter()
    while status(host, probe) != after:
        if time.perf_counter() - started > 10:
            sys.exit('the changed route was not served within 10 s')
    return (time.perf_counter() - started) * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--routes', type=int, default=10_000)
    parser.add_argument('--per-file', type=int, default=1, help='routes in each file; changes need 1')
    parser.add_argument('--rich', action='store_true', help='two matches and a filter in each route')
    parser.add_argument('--changes', type=int, default=20)
    args = parser.parse_args()
    RUN.mkdir(parents=True, exist_ok=True)
    LOGS.mkdir(exist_ok=True)
    folder = RUN / 'scale'
    write(folder, args)
    backend = subprocess.Popen([BIN / 'backend', str(HTTP_BACKEND_PORTS[0])])
    try:
        started = time.monotonic()
        process = Process('portway', [PORTWAY_BIN, 'run', folder, '--workers', '1'], '0', {})
        try:
            last = f'h{args.routes - 1}.scale.test'
            wait_until(lambda: status(last) == 200, process)
            print(f'{args.routes} HTTPRoutes in {-(-args.routes // args.per_file)} files')
            print(f'exec to first 200 of the last route: {time.monotonic() - started:.2f} s')
            print(f'memory (PSS): {process.pss_kb() / 1024:.1f} MB')
            if args.per_file == 1 and args.changes:
                number = args.routes // 2
                host = f'h{number}.scale.test'
                change(folder, host, number, args.rich, '/changed', 200, '/', 404)
                times = [change(folder, host, number, args.rich, f'/changed-{n}', 404, f'/changed-{n}', 200)
                         for n in range(args.changes)]
                print(f'one changed route effective, ms: median {statistics.median(times):.1f}, '
                      f'worst {max(times):.1f} of {len(times)}')
                print(f'memory after the changes (PSS): {process.pss_kb() / 1024:.1f} MB')
        finally:
            process.stop()
    finally:
        backend.kill()


if __name__ == '__main__':
    main()
