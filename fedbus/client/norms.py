"""The L2 norm of an update as it leaves: of its arrays, or of their difference to the model, where that is sent."""

from __future__ import annotations

from math import sqrt

import numpy as np

from fedbus.client.held import Held


def norm_of(held: Held) -> float | None:
    """Return the norm over all numbers of an update; None of a payload, whose bytes are no numbers.

    Of an encoded one it is that of what is decoded, so what its receiver has. Reads all of it: not on the loop.
    """
    if held.encoding.form == "payload":
        return None
    coding, layout = held.cut.coding, held.layout
    total = 0.0
    for index in range(held.cut.count):
        data = held.chunk(index)
        if coding is not None:
            data = coding.decode(index, data)
        for segment in layout.segments(index):
            values = np.frombuffer(data, segment.array.numpy, segment.stop - segment.start, segment.offset)
            if values.dtype.kind in "fiub":
                wide = values if values.dtype.itemsize >= 4 and values.dtype.kind == "f" else values.astype(np.float64)
                total += float(np.dot(wide, wide))
            elif values.dtype.kind == "c":
                total += float(np.vdot(values, values).real)
    return sqrt(total)
