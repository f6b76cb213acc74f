# The experiment, checked before the first job; the package answers every question about it.
import json
import sys
from pathlib import Path

from deconfound.config import read
from deconfound.errors import UserError
from deconfound.graph import Graph

FILES = workflow.config_settings.configfiles or ["config.yaml"]
OVERRIDES = workflow.config_settings.config or {}

if len(FILES) > 1:
    sys.exit("deconfound: error: expected one --configfile: an experiment is one file")

try:
    GRAPH = Graph(read(Path(FILES[0]), OVERRIDES))
except UserError as error:
    sys.exit(f"deconfound: error: {error}")

EXPERIMENT = GRAPH.experiment
REPORTS = EXPERIMENT.reports
RUN = "{dataset}/{poison}/{model}/{defense}/seed{seed}"
JOB = RUN.replace("{", "{wildcards.")  # the same in a message


wildcard_constraints:
    dataset="[a-z0-9_]+",
    poison="[a-z0-9_]+",
    model="[a-z0-9_]+",
    defense="[a-z0-9_]+",
    attack="[a-z0-9_]+",
    seed=r"\d+",
