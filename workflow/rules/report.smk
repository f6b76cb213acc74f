rule plan:
    """List every artifact of the experiment, for the steps that read many."""
    output:
        f"{REPORTS}/plan.json",
    log:
        f"logs/plan/{EXPERIMENT.name}.log",
    benchmark:
        f"timings/plan/{EXPERIMENT.name}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=2000,
        runtime=10,
    params:
        file=FILES[0],
        overrides=json.dumps(OVERRIDES, sort_keys=True),
        listing=GRAPH.listing_digest(),
    message:
        "Listing the artifacts of {EXPERIMENT.name}"
    shell:
        "python -m deconfound plan {params.file:q} --overrides {params.overrides:q} --out {output}"
        " > {log} 2>&1"


rule claims:
    """Tabulate all evaluations with intervals, and judge the claims of the ledgers."""
    input:
        plan=rules.plan.output[0],
        evaluations=GRAPH.evaluations,
        interpretations=GRAPH.interpretations,
        ledgers=EXPERIMENT.ledgers,
        calibration=GRAPH.calibrations,
    output:
        report(
            collect(f"{REPORTS}/tables/{{name}}.csv", name=["summary", "claims"]),
            caption="../report/table.rst",
            category="Tables",
        ),
        collect(
            f"{REPORTS}/tables/{{name}}.csv",
            name=[
                "results",
                "differences",
                "per_class",
                "measures",
                "properties",
                "trust",
                "costs",
                "backdoor",
                "cross",
                "detection",
                "interpretation",
                "published",
                "errata",
            ],
        ),
    log:
        f"logs/claims/{EXPERIMENT.name}.log",
    benchmark:
        f"timings/claims/{EXPERIMENT.name}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        folder=subpath(output[0], parent=True),
        code=GRAPH.step_code("claims"),
    message:
        "Judging the claims of {EXPERIMENT.name}"
    shell:
        "python -m deconfound claims --plan {input.plan} --out {params.folder} --code {params.code}"
        " > {log} 2>&1"


rule report:
    """Write the report as HTML and PDF, with its figures, from the tables."""
    input:
        plan=rules.plan.output[0],
        tables=rules.claims.output,
        models=GRAPH.weights(GRAPH.runs),
        adversarial=GRAPH.crafted,
        data=GRAPH.data,
        calibration=GRAPH.calibrations,
        interpretations=GRAPH.interpretations,
    output:
        html=report(
            f"{REPORTS}/robustness.html",
            caption="../report/robustness.rst",
            category="Report",
        ),
        pdf=report(
            f"{REPORTS}/robustness.pdf",
            caption="../report/robustness.rst",
            category="Report",
        ),
        document=f"{REPORTS}/report.json",
        metrics=f"{REPORTS}/metrics.json",
        plots=f"{REPORTS}/plots.csv",
        pages=GRAPH.pages,
    log:
        f"logs/report/{EXPERIMENT.name}.log",
    benchmark:
        f"timings/report/{EXPERIMENT.name}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        folder=subpath(output.html, parent=True),
        code=GRAPH.step_code("report"),
        templates=GRAPH.templates_digest(),
    message:
        "Writing the report of {EXPERIMENT.name}"
    shell:
        "python -m deconfound report --plan {input.plan} --out {params.folder} --code {params.code}"
        " > {log} 2>&1"


rule timings:
    """Write the page of seconds and memory per rule; these differ from run to run, the report does not."""
    input:
        plan=rules.plan.output[0],
        report=rules.report.output.html,
    output:
        report(
            f"{REPORTS}/timings.html",
            caption="../report/timings.rst",
            category="Report",
        ),
    log:
        f"logs/timings/{EXPERIMENT.name}.log",
    benchmark:
        f"timings/timings/{EXPERIMENT.name}.tsv"
    localrule: True
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        folder=subpath(output[0], parent=True),
        code=GRAPH.step_code("timings"),
    message:
        "Writing the timings of {EXPERIMENT.name}"
    shell:
        "python -m deconfound timings --plan {input.plan} --folder timings --out {params.folder}"
        " --code {params.code} > {log} 2>&1"


rule reports:
    """The report and the page of timings."""
    input:
        f"{REPORTS}/robustness.html",
        f"{REPORTS}/robustness.pdf",
        f"{REPORTS}/timings.html",
    localrule: True
