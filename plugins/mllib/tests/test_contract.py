"""The runtime contract, for models that differ in what goes in and what comes out."""

from __future__ import annotations

import logging

import pytest

from jackfield import ModelContext, ModelSettings
from jackfield.testing import RuntimeContract
from jackfield_mllib import MllibOptions, jackfield_runtimes
from jackfield_mllib._runtime import MllibRuntime


@pytest.fixture(scope="module")
def held(trained):
    """Load a model once for the tests that only ask: each time takes a second."""
    made = {}

    def get(name, settings):
        if name not in made:
            context = ModelContext(
                name="model",
                version="",
                artifact=trained[name].artifact,
                settings=settings,
                options=MllibOptions(),
                logger=logging.getLogger("jackfield.test"),
            )
            made[name] = MllibRuntime(context)
            made[name].load()
        return made[name]

    yield get
    for each in made.values():
        each.close()


class OfMllib(RuntimeContract):
    name = ""
    measured = ("route_ms", "dataframe_ms")

    @pytest.fixture
    def spec(self):
        return jackfield_runtimes()[0]

    @pytest.fixture
    def model_dir(self, trained):
        return trained[self.name].artifact

    @pytest.fixture
    def example(self, trained):
        return trained[self.name].request(3)

    @pytest.fixture
    def runtime(self, held, settings):
        return held(self.name, settings)


class TestPipelineOfColumns(OfMllib):
    name = "iris"
    #: py4j tells the JVM in a thread what to forget, and has 14 to 22 KB still to tell; after a
    #: pause nothing is left.
    leak_bytes = 64 * 1024


class TestModelOfVectorsUnderMlserversName(OfMllib):
    name = "logistic"

    @pytest.fixture
    def settings(self):
        return ModelSettings(name="model", implementation="mlserver_mllib.MLlibModel")

    # as above; the one starts a JVM, the other loads many times
    test_another_process_gives_the_same_answers = None
    test_loading_over_and_over_takes_no_more_memory = None


def test_the_options_are_those_of_the_spec():
    (spec,) = jackfield_runtimes()
    assert spec.options is MllibOptions
    assert "mlserver_mllib.MLlibModel" in spec.aliases
