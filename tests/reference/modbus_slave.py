"""Modbus devices by pymodbus, for tests: modbus_slave.py LIBRARIES MODE (tcp PORT | rtu DEVICE)

Unit 1 has numbers in all four tables, unit 2 has holding registers 0 to 9. The file MODE says how unit 1 behaves: good, slow (it
answers after two seconds), spoilt (its answers are damaged on the way).
"""

import asyncio
import struct
import sys

libraries, mode_file, kind, place = sys.argv[1:5]
sys.path.insert(0, libraries)

from pymodbus.datastore import ModbusDeviceContext, ModbusSequentialDataBlock, ModbusServerContext
from pymodbus.server import StartAsyncSerialServer, StartAsyncTcpServer


def mode():
    with open(mode_file) as file:
        return file.read().strip()


class Device(ModbusDeviceContext):
    async def async_getValues(self, func_code, address, count=1):
        if mode() == "slow":
            await asyncio.sleep(2)
        return await super().async_getValues(func_code, address, count)


def words(form, value):
    raw = struct.pack(form, value)
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


# pymodbus counts from 1 within its blocks.
holding = words(">f", 21.5) + [65_336] + [0] + words(">I", 123_456)[::-1] + words(">d", -0.125) + [0] * 90
one = Device(
    hr=ModbusSequentialDataBlock(1, holding),
    ir=ModbusSequentialDataBlock(1, [7, 8, 9, 10]),
    co=ModbusSequentialDataBlock(1, [True, False, True]),
    di=ModbusSequentialDataBlock(1, [False, True]),
)
two = ModbusDeviceContext(hr=ModbusSequentialDataBlock(1, list(range(100, 110))))
context = ModbusServerContext(devices={1: one, 2: two}, single=False)


def trace(sending, data):
    if sending and data and mode() == "spoilt":
        return data[:-1] + bytes([data[-1] ^ 0x55])
    return data


async def main():
    if kind == "tcp":
        await StartAsyncTcpServer(context, address=("127.0.0.1", int(place)), trace_packet=trace)
    else:
        await StartAsyncSerialServer(context, port=place, baudrate=19_200, ignore_missing_devices=True, trace_packet=trace)


asyncio.run(main())
