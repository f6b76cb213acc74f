"""One made-up experiment for all tests of the report, its document and its figures."""

from typing import Any

import pytest
from pages import report_of
from synthetic_experiment import Experiment, make

from deconfound.report.document import order_of
from deconfound.report.figures import draw
from deconfound.report.inputs import read
from deconfound.report.plotting import Figure


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Evasion, backdoor, claims of every verdict, and a dataset of 43 classes."""
    return make(tmp_path_factory.mktemp("experiment"), signs=True)


@pytest.fixture(scope="session")
def assembled(experiment: Experiment) -> dict[str, Any]:
    """The document of the experiment, without its figures."""
    return report_of(experiment)


@pytest.fixture(scope="session")
def drawn(experiment: Experiment) -> dict[str, Figure]:
    """The figures of the experiment by name, but for images."""
    arguments = experiment.arguments()
    inputs = read(arguments["tables"], arguments["runs"])
    return {figure.name: figure for figure in draw(inputs, order_of(arguments["experiment"]))}
