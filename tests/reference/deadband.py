#!/usr/bin/env python3
"""What the reference deadband forwards: set, percent, channel and the positions of the forwarded readings, a line each.

usage: deadband.py REFERENCE_FOLDER 'PERCENT ...' FILE.csv.gz ...
"""
import csv
import gzip
import os
import sys

sys.path.insert(0, sys.argv[1])
from cells import Deadband  # noqa: E402


def span(values):
    """p99.5 - p0.5, or the whole range where that is nothing."""
    ordered = sorted(values)
    count = len(ordered)
    width = ordered[min(count - 1, int(count * 0.995))] - ordered[int(count * 0.005)]
    return width or ordered[-1] - ordered[0]


for path in sys.argv[3:]:
    name = os.path.basename(path).replace(".csv.gz", "")
    channels = {}
    with gzip.open(path, "rt", newline="") as file:
        for row in csv.DictReader(file):
            channels.setdefault(row["channel"], []).append((float(row["timestamp"]), float(row["value"])))
    for percent in sys.argv[2].split():
        for channel, readings in channels.items():
            cell = Deadband(float(percent) / 100.0 * span([value for _, value in readings]))
            kept = [str(i) for i, (time, value) in enumerate(readings) if cell.feed(time, value)]
            print(name, percent, channel, " ".join(kept), sep="\t")
