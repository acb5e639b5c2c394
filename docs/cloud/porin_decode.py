#!/usr/bin/env python3
"""Reads every payload that porin publishes: JSON, SenML+JSON, SenML+CBOR, compact. Standard library only.

    from porin_decode import decode
    for gateway, epoch, seq, stream, time_us, value, quality in decode(payload): ...

The value of a message is (topic, bytes). Drop duplicates by (gateway, epoch, seq). The forms are described in docs/payloads.md. As a program it reads one payload
from standard input and prints JSON lines.
"""
import base64
import decimal
import json
import math
import re
import struct
import sys


def decode(payload):
    """The packets of a payload (bytes), as a list of tuples. ValueError says what is wrong with it."""
    try:
        return list(_decode(payload))
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError, decimal.DecimalException, struct.error) as error:
        raise ValueError(f"it is damaged: {error!r}") from error


def _decode(payload):
    if not payload:
        raise ValueError("it is empty")
    first = payload[0]
    if first == 0x7B:
        return _json(payload)
    if first == 0x5B:
        return _senml(json.loads(payload, parse_float=decimal.Decimal), _JSON)
    if first >> 5 == 4:
        records, end = _cbor(payload, 0)
        if end != len(payload):
            raise ValueError("bytes are left over")
        return _senml(records, _CBOR)
    if first == 1:
        return _compact(payload)
    raise ValueError("it begins like none of porin's payloads")


def _value(value):
    if not isinstance(value, str):
        return float(value)
    if value.startswith("NaN:"):
        return struct.unpack(">d", bytes.fromhex(value[4:]))[0]
    return float(value)


def _json(payload):
    pack = json.loads(payload)
    if pack["v"] != 1:
        raise ValueError(f"version {pack['v']}")
    for seq, stream, time_us, value, *quality in pack.get("p", []):
        yield pack["gw"], pack["epoch"], seq, stream, time_us, _value(value), quality[0] if quality else 0
    for seq, stream, time_us, topic, body, *quality in pack.get("m", []):
        body = base64.b64decode(body["base64"]) if isinstance(body, dict) else body.encode()
        yield pack["gw"], pack["epoch"], seq, stream, time_us, (topic, body), quality[0] if quality else 0


_JSON = {name: name for name in ("bn", "bt", "n", "v", "vs", "t")}
_CBOR = {"bn": -2, "bt": -3, "n": 0, "v": 2, "vs": 3, "t": 6}


def _senml(records, label):
    base_name, base_time, seq = "", 0, None
    gateway, epoch = records[0]["pgw"], records[0]["pe"]
    for record in records:
        base_name = record.get(label["bn"], base_name)
        if base_name == gateway + "/" and len(records) == 1 and len(record) == 3:
            return  # a head without a packet
        base_time = _microseconds(record[label["bt"]]) if label["bt"] in record else base_time
        name = (base_name + record.get(label["n"], "")).removeprefix(gateway + "/").encode()
        stream = re.sub(rb":(..)", lambda found: bytes.fromhex(found[1].decode()), name).decode()
        seq = record["ps"] if "ps" in record else seq + 1
        time_us = record["pt"] if "pt" in record else base_time + _microseconds(record.get(label["t"], 0))
        value = record[label["v"]] if label["v"] in record else record[label["vs"]]
        yield gateway, epoch, seq, stream, time_us, _value(value), record.get("pq", 0)


def _microseconds(seconds):
    if isinstance(seconds, float):
        return int(seconds * 1e6 + math.copysign(0.5, seconds))
    return int(seconds * 1_000_000)


def _cbor(data, at):
    """One item of CBOR (RFC 8949), as far as porin's SenML uses it. Gives it and where it ends."""
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7 and info in (25, 26, 27):
        form, size = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}[info]
        return struct.unpack(form, data[at:at + size])[0], at + size
    if info >= 24:
        size = 1 << (info - 24)
        info, at = int.from_bytes(data[at:at + size], "big"), at + size
    if major == 0:
        return info, at
    if major == 1:
        return -1 - info, at
    if major == 3:
        return data[at:at + info].decode(), at + info
    if major == 4 or major == 5:
        items = []
        for _ in range(info * (major - 3)):
            item, at = _cbor(data, at)
            items.append(item)
        return (items if major == 4 else dict(zip(items[::2], items[1::2]))), at
    if major == 6 and info == 4:  # a decimal fraction
        (exponent, mantissa), at = _cbor(data, at)
        return decimal.Decimal((mantissa < 0, [int(digit) for digit in str(abs(mantissa))], exponent)), at
    raise ValueError(f"CBOR major type {major} is not used by porin")


def _compact(data):
    at = 1

    def take(count):
        nonlocal at
        if at + count > len(data):
            raise ValueError("it ends too early")
        at += count
        return data[at - count:at]

    def varint():
        number = shift = 0
        while True:
            byte = take(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def signed():
        number = varint()
        return number >> 1 ^ -(number & 1)

    def text():
        return take(take(1)[0]).decode()

    def column(count):
        """Integers modulo 2^64."""
        numbers = [signed() % 2**64] if count else []
        divisor = varint() if count > 1 else 0
        shape = take(1)[0] if divisor else 0
        for _ in range(count - 1):
            step = {0: divisor, 1: -divisor}[shape] if shape < 2 else signed() * divisor
            numbers.append((numbers[-1] + step) % 2**64)
        return numbers

    def values(count):
        scale = take(1)[0]
        if scale == 255:
            return list(struct.unpack(f"<{count}d", take(8 * count)))
        return [(number - (number >> 63 << 64)) / 10**scale for number in column(count)]

    gateway = text()
    epoch = f"{int.from_bytes(take(8), 'little'):016x}-{varint()}"
    count, streams = varint(), varint()
    if not streams <= count <= 65_536:
        raise ValueError("more packets than a payload may have")
    names = [text() for _ in range(streams)]
    which = column(count) if len(names) > 1 else [0] * count
    seqs, times, qualities = column(count), column(count), column(count)
    by_stream = [iter(values(which.count(stream))) for stream in range(len(names))]
    if at != len(data):
        raise ValueError("bytes are left over")
    for stream, seq, time_us, quality in zip(which, seqs, times, qualities):
        yield gateway, epoch, seq, names[stream], time_us, next(by_stream[stream]), quality


def main():
    for gateway, epoch, seq, stream, time_us, value, quality in decode(sys.stdin.buffer.read()):
        packet = {"gw": gateway, "epoch": epoch, "seq": seq, "stream": stream, "time_us": time_us}
        if isinstance(value, tuple):
            packet["topic"], body = value
            try:
                packet["payload"] = body.decode()
            except UnicodeDecodeError:
                packet["payload"] = {"base64": base64.b64encode(body).decode()}
        elif math.isfinite(value):
            packet["value"] = value
        elif value != value:
            bits = struct.pack(">d", value).hex()
            packet["value"] = "NaN" if bits == "7ff8000000000000" else "NaN:" + bits
        else:
            packet["value"] = "Infinity" if value > 0 else "-Infinity"
        if quality:
            packet["quality"] = quality
        print(json.dumps(packet, ensure_ascii=False, separators=(",", ":")))


if __name__ == "__main__":
    main()
