#!/usr/bin/env python3
"""Writes the measured tables and marks into docs/performance.md, between its two marker lines.

  report.py RUN.json [W2.json] [MEM.json]     as bench.py --json wrote them; the kind is seen from what is in them
"""
import datetime
import json
import os
import re
import statistics
import subprocess
import sys

from benchkit.layout import BIN, KIT
from benchkit.load import SCENARIOS
from benchkit.peers import FLOOR

PAGE = KIT.parent / 'docs' / 'performance.md'
BEGIN, END = '<!-- measured: begin (cargo xtask bench --write) -->', '<!-- measured: end -->'
OURS = 'portway'
NAMES = {OURS: 'Portway', 'nginx': 'nginx', 'haproxy': 'HAProxy', 'envoy': 'Envoy', 'caddy': 'Caddy', 'pingora': 'Pingora',
         FLOOR: 'floor'}

# (scenario, of what, compared with whom, at most); `best` is the cheapest peer.
MARKS = [(s, 'cpu_us', peer, most) for s in 'ab' for peer, most in (('nginx', .85), ('envoy', .45), (FLOOR, 1.15))] + [
    ('c', 'cpu_us', 'nginx', .90), ('d', 'cpu_us', 'nginx', .80), ('e', 'cpu_us', 'envoy', .85), ('f', 'cpu_us', 'nginx', .75),
    ('g', 'cpu_us', 'haproxy', .90), *((s, 'p999', 'best', 1.) for s in 'adf')]


class Figures:
    """Medians by scenario, set and peer."""

    def __init__(self, entries):
        self.rounds = {(e['scenario'], e['set'], e['peer']): e['rounds'] for e in entries if e['rounds']}

    def get(self, scenario, peer, key='cpu_us', set_name=None):
        for (s, found_set, p), rounds in self.rounds.items():
            if (s, p) == (scenario, peer) and set_name in (None, found_set):
                return statistics.median(r[key] for r in rounds)
        return None

    def spread(self, scenario, peer):
        values = next((r for (s, _, p), r in self.rounds.items() if (s, p) == (scenario, peer)), [])
        cpu = [r['cpu_us'] for r in values]
        return f'{statistics.median(cpu):.1f} ({min(cpu):.1f}–{max(cpu):.1f})' if cpu else '–'

    def best(self, scenario, key):
        peers = {p for _, _, p in self.rounds} - {OURS, FLOOR}
        return min((v for p in peers if (v := self.get(scenario, p, key)) is not None), default=None)

    def scenarios(self):
        return [s for s in SCENARIOS if any(s == found for found, _, _ in self.rounds)]

    def peers(self):
        return [p for p in NAMES if any(p == found for _, _, found in self.rounds)]

    def errors(self):
        return sum(r['errors'] for rounds in self.rounds.values() for r in rounds)


def table(heading, rows):
    return '\n'.join(f'| {" | ".join(row)} |' for row in [heading, ['-'] * len(heading), *rows])


def cost_table(run):
    peers = run.peers()
    rows = [[f'{s}: {SCENARIOS[s].what}', *(run.spread(s, p) for p in peers)] for s in run.scenarios()]
    return table(['scenario', *(NAMES[p] for p in peers)], rows)


def tail_table(run):
    peers = [p for p in run.peers() if p != FLOOR]
    form = lambda value: '–' if value is None else f'{value:.2f}'
    rows = [[s, *(form(run.get(s, p, 'p999')) for p in peers)] for s in run.scenarios() if s in 'abcdfg']
    return table(['p99.9, ms', *(NAMES[p] for p in peers)], rows)


def verdict(value, most):
    return 'met' if value <= most else '**missed**'


def mark_rows(run, w2, memory):
    for scenario, key, peer, most in MARKS:
        ours = run.get(scenario, OURS, key)
        other = run.best(scenario, key) if peer == 'best' else run.get(scenario, peer, key)
        if ours and other:
            what = 'CPU' if key == 'cpu_us' else 'p99.9'
            of = 'the best peer' if peer == 'best' else NAMES[peer]
            yield f'{scenario}: {what} ÷ {of}', ours / other, most
    own = run.get('a', OURS)
    for scenario, most in (('h', 1.05), ('m', 1.15)):
        if own and (value := run.get(scenario, OURS)):
            yield f'{scenario}: CPU ÷ its own a', value / own, most
    if (value := run.get('h', OURS, 'pss_mb')):
        yield 'h: memory, MB', value, 30
    if own and (two := w2.get('a', OURS, set_name='w2')):
        # Requests of two cores over those of one, both full.
        yield 'two workers: CPU per request against one worker, at most 2 ÷ 1.7', two / own, 2 / 1.7
    for row in memory:
        if row['peer'] == OURS and row['set'] == 'w1':
            yield 'empty, MB', row['empty_mb'], 12
            yield 'idle HTTP/1.1 connection, KB', row['http']['each_kb'], 2
            yield 'idle TLS connection, KB', row['https']['each_kb'], 20


def memory_table(memory):
    rows = []
    for row in memory:
        idle = [f'{row[k]["each_kb"]:.1f}' if k in row else '–' for k in ('http', 'https')]
        rows.append([NAMES[row['peer']], row['set'], f'{row["empty_mb"]:.1f}', *idle])
    return table(['proxy', 'table', 'empty, MB', 'KB per idle HTTP/1.1 connection', 'per idle TLS connection'], rows)


def versions():
    def said(*argv):
        result = subprocess.run(argv, capture_output=True, text=True)
        return result.stdout + result.stderr
    found = []
    for name, flag in (('nginx', '-v'), ('haproxy', '-v'), ('envoy', '--version')):
        if os.access(BIN / name, os.X_OK):
            number = re.search(r'\d+\.\d+\.\d+', said(BIN / name, flag))
            found.append(f'{NAMES[name]} {number.group() if number else "?"}')
    return ', '.join(found), said('uname', '-sr').strip()


def main():
    run, w2, memory = [], [], []
    for path in sys.argv[1:]:
        for entry in json.load(open(path)):
            (memory if 'empty_mb' in entry else w2 if entry['set'] == 'w2' else run).append(entry)
    run, w2 = Figures(run), Figures(w2)
    rounds = max(len(r) for r in run.rounds.values())
    peers, kernel = versions()
    marks = table(['mark', 'measured', 'at most', ''],
                  [[what, f'{value:.2f}', f'{most:.2f}', verdict(value, most)] for what, value, most in mark_rows(run, w2, memory)])
    parts = [BEGIN, f'{datetime.date.today()}, {os.cpu_count()} cores, {kernel}; {peers}; {rounds} rounds, medians (least–most); '
             f'{run.errors()} errors in all of them.', '### CPU µs per request', cost_table(run), '### Tails', tail_table(run)]
    if memory:
        parts += ['### Memory', memory_table(memory)]
    parts += ['### Marks', marks, END]
    page = PAGE.read_text()
    start, end = page.index(BEGIN), page.index(END) + len(END)
    PAGE.write_text(page[:start] + '\n\n'.join(parts) + page[end:])


if __name__ == '__main__':
    main()
