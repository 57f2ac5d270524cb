"""Randomness that depends on names and numbers, never on the order in which it is asked for.

Integers are hashed by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), one application a word.
"""

import zlib

import numpy as np
from numpy.typing import NDArray

Word = int | str | NDArray[np.int64]

_GAMMA = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_ALL = 0xFFFFFFFFFFFFFFFF


def _word(word: Word) -> NDArray[np.uint64]:
    if isinstance(word, str):
        word = zlib.crc32(word.encode())
    if isinstance(word, int):
        return np.asarray(word & _ALL, np.uint64)
    return np.asarray(word, np.int64).astype(np.uint64)


def scramble(*words: Word) -> NDArray[np.uint64]:
    """A 64-bit hash of the words in order; arrays of words broadcast."""
    state = np.asarray(0, np.uint64)
    with np.errstate(over="ignore"):
        for word in words:
            state = (state ^ _word(word)) + np.uint64(_GAMMA)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(_MIX[0])
            state = (state ^ (state >> np.uint64(27))) * np.uint64(_MIX[1])
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(*words: Word) -> NDArray[np.float64]:
    """Numbers in [0, 1), one for each combination of words."""
    return (scramble(*words) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(*words: int | str) -> np.random.Generator:
    """A generator that belongs to these words; its key is their `scramble`."""
    state = 0
    for word in words:
        number = zlib.crc32(word.encode()) if isinstance(word, str) else word
        state = ((state ^ (number & _ALL)) + _GAMMA) & _ALL
        state = ((state ^ (state >> 30)) * _MIX[0]) & _ALL
        state = ((state ^ (state >> 27)) * _MIX[1]) & _ALL
        state ^= state >> 31
    return np.random.Generator(np.random.Philox(key=state))
