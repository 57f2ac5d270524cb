"""The tokens of a sequence that are data, without learned readout tokens."""

import math

from fusekit.stream import Signature, Span, Stream, concatenate


def _runs(spans: tuple[Span, ...]) -> list[tuple[int, int]]:
    """Starts and stops of the runs of data tokens."""
    runs: list[tuple[int, int]] = []
    at = 0
    for span in spans:
        if not span.readout:
            if runs and runs[-1][1] == at:
                runs[-1] = (runs[-1][0], at + span.size)
            else:
                runs.append((at, at + span.size))
        at += span.size
    return runs


def _grid(grid: tuple[tuple[str, int], ...], length: int) -> tuple[tuple[str, int], ...]:
    return grid if math.prod(size for _, size in grid) == length else ()


def data_signature(signature: Signature) -> Signature:
    """The signature of `data_tokens`."""
    if not any(span.readout for span in signature.spans):
        return signature
    spans = tuple(span for span in signature.spans if not span.readout)
    length = sum(span.size for span in spans)
    return signature.with_(
        sizes=(("time", length), *signature.sizes[1:]),
        spans=spans,
        grid=_grid(signature.grid, length),
    )


def data_tokens(stream: Stream) -> Stream:
    """The stream without learned readout tokens."""
    if not any(span.readout for span in stream.spans):
        return stream
    parts = [stream.cut(start, stop) for start, stop in _runs(stream.spans)]
    if len(parts) == 1:
        kept = parts[0]
    else:
        kept = concatenate([part.with_(presence=None) for part in parts])
    return kept.with_(presence=stream.presence, grid=_grid(stream.grid, kept.length))
