"""Rows that nobody else has, and every form in which they could be found somewhere."""

from __future__ import annotations

import base64

import numpy as np

FEATURES = 64
SECRET = "Lovelace-Ada-4711-9c2e"
"""As a row's owner, in a column of texts."""


def rows(count=2):
    """Return rows of doubles between 0 and 1, as pixels are, that come up nowhere else."""
    return np.random.default_rng(0xCA9A51).uniform(0.05, 0.95, (count, FEATURES))


def needles():
    """Return {what: bytes} of all that would give a row, or its text, away.

    Of doubles one value is enough, whose eight bytes come up by chance nowhere; of shorter floats some that stand side
    by side. Base64 at each of the three places where a row can begin in what is encoded.
    """
    found = dict(_texts())
    for number, row in enumerate(rows()):
        for kind, width in (("f8", 1), ("f4", 2), ("f2", 4)):
            for order, name in (("<", "little"), (">", "big")):
                array = row.astype(order + kind)
                for at in range(FEATURES - width + 1):
                    found[f"row {number} as {kind} {name}, value {at}"] = array[at : at + width].tobytes()
                found |= _armoured(f"row {number} as {kind} {name}", array.tobytes())
        for at, value in enumerate(row.tolist()):
            found[f"row {number} as text, value {at}"] = repr(value)[:10].encode()
            found[f"row {number} as float32 text, value {at}"] = str(np.float32(value))[:9].encode()
        top = np.ascontiguousarray(row.astype(np.float32).view(np.uint32) >> 16).astype("<u2")
        for at in range(FEATURES - 3):
            found[f"row {number} as bfloat16, value {at}"] = top[at : at + 4].tobytes()
    return found


def _texts():
    for coding in ("utf-8", "utf-16-le", "utf-16-be"):
        data = SECRET.encode(coding)
        yield f"text as {coding}", data
        yield from _armoured(f"text as {coding}", data).items()


def _armoured(what, data):
    found = {f"{what}, hexadecimal": data[:12].hex().encode(), f"{what}, HEXADECIMAL": data[:12].hex().upper().encode()}
    for skip in range(3):
        found[f"{what}, base64 from {skip}"] = base64.b64encode(data[skip : skip + 12])
    return found


def found_in(data):
    """Return what of the rows stands in some bytes."""
    data = bytes(data)
    return [what for what, needle in needles().items() if needle in data]
