rule evaluate:
    """Score one trained model: clean, under every attack, under the trigger."""
    input:
        model=GRAPH.model_files,
        test="data/clean/{dataset}/test.npz",
        more=GRAPH.scoring_files,
    output:
        f"results/{RUN}/evaluation.json",
    log:
        f"logs/evaluate/{RUN}.log",
    benchmark:
        f"timings/evaluate/{RUN}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=6000,
        runtime=240,
    params:
        spec=GRAPH.evaluate_spec,
        folder=GRAPH.model_folder,
        options=GRAPH.scoring_options,
        code=GRAPH.evaluate_code,
    message:
        f"Evaluating {JOB}"
    shell:
        "python -m deconfound evaluate --model {params.folder} --test {input.test} --spec {params.spec:q}"
        " {params.options} --out {output} --threads {threads} --gpu {resources.gpu}"
        " --code {params.code} > {log} 2>&1"


rule evaluations:
    """All evaluations."""
    input:
        GRAPH.evaluations,
    localrule: True
