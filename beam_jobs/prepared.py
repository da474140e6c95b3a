"""A pipeline on Beam's in-process runner that is made once and run many times, each time with other elements.

To make a pipeline takes longer than to run it on a few elements.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

_elements: dict[str, Sequence[Any]] = {}


class _TakeFn(beam.DoFn):
    def __init__(self, name: str) -> None:
        self.name = name

    def process(self, _: Any) -> Iterator[Any]:
        yield from _elements[self.name]


@dataclass
class _Take(beam.PTransform):
    """Nothing to the elements of this run."""

    name: str

    def expand(self, begin: Any) -> Any:
        return begin | "Run" >> beam.Impulse() | "Take" >> beam.ParDo(_TakeFn(self.name))


class PreparedPipeline:
    """``add`` adds to a pipeline what is done with the elements that the given transform reads."""

    def __init__(self, add: Callable[[Any, beam.PTransform], object]) -> None:
        self._name = uuid.uuid4().hex
        self._options = PipelineOptions([])
        pipeline = beam.Pipeline(FnApiRunner(), self._options)
        add(pipeline, _Take(self._name))
        self._proto = pipeline.to_runner_api(default_environment=EmbeddedPythonEnvironment.default())
        os.rmdir(pipeline.local_tempdir)  # which only `pipeline.run` would remove

    def run(self, elements: Sequence[Any]) -> None:
        """Run in this process, to the end. Raises what the pipeline raises."""
        _elements[self._name] = elements
        try:
            FnApiRunner().run_via_runner_api(self._proto, self._options).wait_until_finish()
        finally:
            del _elements[self._name]
