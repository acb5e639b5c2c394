#!/usr/bin/env python3
"""What an independent SenML library makes of a pack: a JSON line [name, time, unit, value] for each record.

usage: senml_read.py FOLDER_OF_LIBRARIES < pack

Uses `senml` for the model and `cbor2` for CBOR, both from PyPI. `senml` knows labels by their JSON names only.
"""
import json
import sys

sys.path.insert(0, sys.argv[1])
import cbor2  # noqa: E402
from senml import SenMLDocument  # noqa: E402

LABELS = {-1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 6: "t", 7: "ut"}

pack = sys.stdin.buffer.read()
if pack.startswith(b"["):
    records = json.loads(pack)
else:
    records = [{LABELS.get(label, label): value for label, value in record.items()} for record in cbor2.loads(pack)]
    records = [{label: float(value) if label in ("t", "bt") else value for label, value in r.items()} for r in records]
document = SenMLDocument.from_json(records)
for measurement in document.measurements:
    absolute = measurement.to_absolute(document.base)
    print(json.dumps([absolute.name, absolute.time, absolute.unit, absolute.value]))
