"""Weights that an ONNX file takes from other files: found in its bytes, before anything follows them."""

from __future__ import annotations

from mmap import ACCESS_READ, mmap
from pathlib import Path

FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external data"},
}
"""The messages on the way to a tensor, each with the numbers of its fields that lead further (onnx.proto3)."""
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
"""Protocol Buffers' wire types of fields; ONNX has none of the others."""


def has_external_weights(path: Path) -> bool:
    """Whether a tensor of an ONNX file names another file for its values: an initializer, or one in a node or function.

    Reads the structure alone, not the weights. Raises ValueError for bytes that are no Protocol Buffers message, and
    OSError.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:
        open_messages = [("model", 0, len(data))]
        while open_messages:
            kind, position, end = open_messages.pop()
            while position < end:
                # Readers keep 32 bits of a tag: more would hide a field from whoever keeps them.
                tag, position = _varint(data, position, end)
                number, wire_type = (tag & 0xFFFFFFFF) >> 3, tag & 7
                start = position
                if wire_type == VARINT:
                    _, position = _varint(data, position, end)
                elif wire_type == BYTES:
                    length, start = _varint(data, position, end)
                    position = start + length
                elif wire_type in (EIGHT_BYTES, FOUR_BYTES):
                    position += 8 if wire_type == EIGHT_BYTES else 4
                else:
                    raise ValueError(f"byte {start} is not of a Protocol Buffers message")
                if position > end:
                    raise ValueError("it ends too early")
                inner = FIELDS[kind].get(number) if wire_type == BYTES else None
                if inner == "external data":
                    return True
                if inner:
                    open_messages.append((inner, start, position))
    return False


def _varint(data: mmap, position: int, end: int) -> tuple[int, int]:
    """The number of variable length that begins at a position, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("it ends too early")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError(f"byte {position} is not of a Protocol Buffers message")
