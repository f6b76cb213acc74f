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


rule interpret:
    """Read off one trained model where its evidence lies, and who can tell that it is attacked."""
    input:
        model=GRAPH.model_files,
        test="data/clean/{dataset}/test.npz",
        more=GRAPH.interpretation_files,
    output:
        about=f"results/{RUN}/interpretation.json",
        pictures=f"results/{RUN}/pictures.npz",
    log:
        f"logs/interpret/{RUN}.log",
    benchmark:
        f"timings/interpret/{RUN}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=6000,
        runtime=240,
    params:
        spec=GRAPH.interpretation_spec,
        folder=GRAPH.model_folder,
        options=GRAPH.interpretation_options,
        code=GRAPH.interpretation_code,
    message:
        f"Interpreting {JOB}"
    shell:
        "python -m deconfound interpret --model {params.folder} --test {input.test}"
        " {params.options} --spec {params.spec:q} --out {output.about} --threads {threads}"
        " --gpu {resources.gpu} --code {params.code} > {log} 2>&1"


rule calibrate:
    """Measure how far estimates of mutual information can be trusted, where the truth is known."""
    output:
        f"results/calibration/{EXPERIMENT.name}.json",
    log:
        f"logs/calibrate/{EXPERIMENT.name}.log",
    benchmark:
        f"timings/calibrate/{EXPERIMENT.name}.tsv"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        spec=GRAPH.calibration_spec(),
        code=GRAPH.step_code("calibrate"),
    message:
        "Calibrating estimates of mutual information"
    shell:
        "python -m deconfound calibrate --spec {params.spec:q} --out {output} --threads {threads}"
        " --code {params.code} > {log} 2>&1"


rule evaluations:
    """All evaluations, and what was read off the models."""
    input:
        GRAPH.evaluations,
        GRAPH.interpretations,
        GRAPH.calibrations,
    localrule: True
