"""Text from an ONNX file: ``python -m graphopt.models.char_gpt.generate NET.onnx --prompt "ROMEO:" --tokens 300``.

The prompt is read at once, then letters follow one by one, each with the cache of those before. No torch here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.models.char_gpt import letters as alphabet


@dataclass(frozen=True)
class Generated:
    """What was written, and how long it took.

    Attributes:
        prompt: What was given.
        text: What follows it.
        prompt_seconds: For reading the prompt.
        seconds: For the letters behind the first, which the prompt's reading has already given.
    """

    prompt: str
    text: str
    prompt_seconds: float
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Letters a second, one by one with the cache; nan where fewer than two were written."""
        return (len(self.text) - 1) / self.seconds if len(self.text) > 1 else float("nan")


class Decoder:
    """A session of the net and what it has read so far.

    Attributes:
        letters: What the ids stand for.
        past: How many ids the cache holds.
    """

    def __init__(self, model: Any, *, threads: int = 1) -> None:
        """Load a net.

        Args:
            model: A path, or an ``onnx_ir.Model``.
            threads: Threads inside an operator.

        Raises:
            ModelError: The file cannot be read or run, has no cache, or does not say its letters.
        """
        from graphopt import model as models
        from graphopt import runtime

        loaded = models.load(model)
        where = os.fspath(model) if isinstance(model, str | os.PathLike) else None
        help = "it takes a file that graphopt.models.char_gpt.export has written, optimized or not"
        inputs = [str(value.name) for value in loaded.graph.inputs]
        outputs = [str(value.name) for value in loaded.graph.outputs]
        self._caches = {name: name.replace("past.", "present.", 1) for name in inputs if name.startswith("past.")}
        wanted = {"ids", "positions"} | set(self._caches)
        if set(inputs) != wanted or set(outputs) != {"logits"} | set(self._caches.values()):
            raise ModelError("the model is not a decoder with a cache", where, help)
        if alphabet.METADATA not in loaded.metadata_props:
            raise ModelError("the model does not say its letters", where, help)
        self.letters = str(loaded.metadata_props[alphabet.METADATA])
        self._empty = {}
        for value in loaded.graph.inputs:
            if value.name in self._caches:
                dims = value.shape or ()
                if len(dims) != 4 or not isinstance(dims[1], int) or not isinstance(dims[3], int):
                    raise ModelError(f"'{value.name}' is not [batch, heads, past, size]", where, help)
                self._empty[value.name] = (dims[1], dims[3])
        self._outputs = outputs
        self._run = runtime.run
        self._session = runtime.session(model, threads=threads, lean=False)
        self.forget(1)

    def forget(self, batch: int = 1) -> None:
        """Begin anew with an empty cache for so many rows."""
        self.past = 0
        self._cache = {n: np.zeros((batch, heads, 0, size), np.float32) for n, (heads, size) in self._empty.items()}

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Read ids ``[batch, time]`` behind what was read before.

        Returns:
            Logits, float32 ``[batch, time, letters]``.

        Raises:
            ModelError: The run fails.
        """
        positions = np.broadcast_to(np.arange(self.past, self.past + ids.shape[1]), ids.shape)
        given = {"ids": np.asarray(ids, np.int64), "positions": np.ascontiguousarray(positions), **self._cache}
        found = dict(zip(self._outputs, self._run(self._session, given), strict=True))
        self._cache = {before: found[after] for before, after in self._caches.items()}
        self.past += ids.shape[1]
        return found["logits"]


def generate(
    model: Any,
    prompt: str = "\n",
    tokens: int = 300,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    threads: int = 1,
    each: Callable[[str], None] = lambda letter: None,
) -> Generated:
    """Continue a prompt.

    Args:
        model: A path, an ``onnx_ir.Model``, or a ``Decoder``.
        prompt: At least one letter.
        tokens: How many letters to write.
        temperature: 0: always the likeliest letter; else letters are drawn from ``softmax(logits / temperature)``.
        seed: Of what is drawn.
        threads: Threads inside an operator, of a decoder that is made here.
        each: Called with each letter as it is written.

    Raises:
        UsageError: An empty prompt or one with strange letters, less than no letters, a negative temperature
            or seed, no thread.
        ModelError: The file is not such a net.
    """
    if not prompt:
        raise UsageError("the prompt is empty", help="give at least one letter, for example the end of a line")
    if tokens < 0:
        raise UsageError(f"{tokens} letters cannot be written", help="0 or more")
    if seed < 0:
        raise UsageError(f"a seed of {seed}", help="0 or more")
    if threads < 1:
        raise UsageError(f"{threads} threads", help="1 or more")
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"a temperature of {temperature}", help="0 for the likeliest letter, 1 for the net's own odds")
    decoder = model if isinstance(model, Decoder) else Decoder(model, threads=threads)
    numbers = np.random.default_rng(seed)
    read = alphabet.ids(prompt, decoder.letters)
    decoder.forget()
    start = time.perf_counter()
    logits = decoder.read(read[None])[0, -1]
    begun = time.perf_counter()
    written: list[int] = []
    for left in range(tokens, 0, -1):
        written.append(_chosen(logits, temperature, numbers))
        each(decoder.letters[written[-1]])
        if left > 1:
            logits = decoder.read(np.array([[written[-1]]]))[0, -1]
    ended = time.perf_counter()
    return Generated(prompt, alphabet.text(np.array(written, np.int64), decoder.letters), begun - start, ended - begun)


def _chosen(logits: np.ndarray, temperature: float, numbers: np.random.Generator) -> int:
    """Return the likeliest id, or one drawn: the largest of ``logits / temperature`` plus Gumbel noise."""
    if not temperature:
        return int(logits.argmax())
    noise = numbers.gumbel(size=logits.shape)
    return int((logits.astype(np.float64) / temperature + noise).argmax())


def main(arguments: Sequence[str] | None = None) -> int:
    """Write text as the net would go on, and say how fast. Returns the exit status; errors are messages."""
    parser = argparse.ArgumentParser(
        prog="python -m graphopt.models.char_gpt.generate", description=main.__doc__, allow_abbrev=False
    )
    parser.add_argument("model", metavar="NET.onnx", type=Path, help="a net of this family")
    parser.add_argument("--prompt", metavar="TEXT", default="\n", help="what to continue (the end of a line)")
    parser.add_argument("--tokens", metavar="N", type=int, default=300, help="how many letters to write (300)")
    parser.add_argument("--temperature", metavar="T", type=float, default=0.8, help="0: the likeliest letters (0.8)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="inside an operator (1)")
    given = parser.parse_args(arguments)
    written = [given.prompt]

    def write(letter: str) -> None:
        """The prompt comes out with the first letter, so that nothing is written before an error."""
        print(*written, letter, sep="", end="", flush=True)
        written.clear()

    try:
        found = generate(
            given.model, given.prompt, given.tokens, temperature=given.temperature, seed=given.seed,
            threads=given.threads, each=write,
        )  # fmt: skip
    except GraphoptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(*written)
    said = f"{len(given.prompt)} letters read in {1e3 * found.prompt_seconds:.1f} ms"
    if len(found.text) > 1:
        said += f", {found.tokens_per_second:,.0f} letters a second written"
    print(said, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
