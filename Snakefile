# The whole pipeline: `snakemake --cores all`. Another experiment: `--configfile experiments/NAME.yaml`.
from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


# The image of the Dockerfile, for those who run with `--sdm apptainer`; without that option it is not used.
container: "docker-daemon://deconfound:0.1.0"


include: "workflow/rules/common.smk"


rule all:
    """Everything: the report and the page of timings."""
    input:
        f"{REPORTS}/robustness.html",
        f"{REPORTS}/robustness.pdf",
        f"{REPORTS}/timings.html",
    localrule: True


include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/attacks.smk"
include: "workflow/rules/defenses.smk"
include: "workflow/rules/evaluation.smk"
include: "workflow/rules/report.smk"
