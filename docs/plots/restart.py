#!/usr/bin/env python3
"""Draws seconds from the start of a process until it is ready against the size of its data.

The node file alone:
cargo run --release -p store-redb --example restart -- DIRECTORY 100 1024 10240 > restart.json
docs/plots/restart.py restart.json > docs/plots/restart.svg

A real node, with the time until its first answer:
tests/peers/restart.py target/release/flotilla DIRECTORY 100 1024 10240 > restart.json
docs/plots/restart.py restart.json > docs/plots/restart-node.svg
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 300, 60, 250, 30
rows = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
SERIES = [("seconds", "ready", "#2563eb"), ("first_get", "first answer", "#ea580c")]
series = [one for one in SERIES if one[0] in rows[0]]
most = max(1.0, max(row[name] for row in rows for name, *_ in series)) * 1.15
low, high = (math.log10(edge(row["megabytes"] for row in rows)) for edge in (min, max))


def x(megabytes):
    return LEFT + 30 + (math.log10(megabytes) - low) / max(high - low, 0.1) * (WIDTH - LEFT - 80)


def y(seconds):
    return BOTTOM - seconds / most * (BOTTOM - TOP)


def size(megabytes):
    return f"{megabytes / 1024:g} GB" if megabytes >= 1024 else f"{megabytes} MB"


out = [
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
    f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    f'<text x="{LEFT}" y="18">seconds from exec to ready after kill -9; label: log applied again</text>',
    f'<path d="M{LEFT} {TOP} V{BOTTOM} H{WIDTH - 20}" fill="none" stroke="black"/>',
]
for step in range(5):
    seconds = most * step / 4
    out.append(f'<text x="{LEFT - 8}" y="{y(seconds) + 4:.0f}" text-anchor="end">{seconds:.1f}</text>')
for megabytes in sorted({row["megabytes"] for row in rows}):
    of_size = [row for row in rows if row["megabytes"] == megabytes]
    out.append(f'<text x="{x(megabytes):.0f}" y="{BOTTOM + 18}" text-anchor="middle">{size(megabytes)}</text>')
    for at, (name, _, colour) in enumerate(series):
        across = x(megabytes) + 12 * (at - (len(series) - 1) / 2)
        for row in of_size:
            out.append(f'<circle cx="{across:.0f}" cy="{y(row[name]):.1f}" r="4" fill="{colour}"/>')
    top = y(max(row[name] for row in of_size for name, *_ in series)) - 9
    out.append(f'<text x="{x(megabytes):.0f}" y="{top:.0f}" text-anchor="middle">{of_size[0]["ring_mb"]} MB</text>')
for at, (_, what, colour) in enumerate(series if len(series) > 1 else []):
    out.append(f'<text x="{LEFT + 10 + 60 * at}" y="{TOP + 14}" fill="{colour}">{what}</text>')
out.append("</svg>")
print("\n".join(out))
