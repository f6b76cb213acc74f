"""One made-up experiment for all tests of the report."""

import pytest
from synthetic_experiment import Experiment, make


@pytest.fixture(scope="session")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Evasion, backdoor, claims of every verdict, and a dataset of 43 classes."""
    return make(tmp_path_factory.mktemp("experiment"), signs=True)
