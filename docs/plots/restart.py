#!/usr/bin/env python3
"""Draws seconds from the start of a process until it is ready against the size of its data.

cargo run --release -p store-redb --example restart -- DIRECTORY 100 1024 10240 > restart.json
docs/plots/restart.py restart.json > docs/plots/restart.svg
"""
import json
import math
import sys

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 300, 60, 250, 30
rows = [json.loads(line) for line in open(sys.argv[1]) if line.strip()]
most = max(1.0, max(row["seconds"] for row in rows)) * 1.15
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
    for row in of_size:
        out.append(f'<circle cx="{x(megabytes):.0f}" cy="{y(row["seconds"]):.1f}" r="4" fill="#2563eb"/>')
    top = y(max(row["seconds"] for row in of_size)) - 9
    out.append(f'<text x="{x(megabytes):.0f}" y="{top:.0f}" text-anchor="middle">{of_size[0]["ring_mb"]} MB</text>')
out.append("</svg>")
print("\n".join(out))
