rule defend:
    """Train with a defense, from scratch or from the run that it starts from."""
    input:
        train=GRAPH.training_set,
        val="data/clean/{dataset}/val.npz",
        start=GRAPH.start_files,
    output:
        weights=f"checkpoints/defended/{RUN}/model.safetensors",
        about=f"checkpoints/defended/{RUN}/run.json",
        trace=f"checkpoints/defended/{RUN}/trace.npz",
    log:
        f"logs/defend/{RUN}.log",
    benchmark:
        f"timings/defend/{RUN}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=6000,
        runtime=480,
    params:
        spec=GRAPH.train_spec,
        run=GRAPH.run_text,
        folder=GRAPH.model_folder,
        start=GRAPH.start_option,
        code=GRAPH.train_code,
    message:
        f"Defending {JOB}"
    shell:
        "python -m deconfound defend --train {input.train} --val {input.val} --spec {params.spec:q}"
        " --run {params.run:q} --out {params.folder} {params.start} --threads {threads}"
        " --gpu {resources.gpu} --code {params.code} > {log} 2>&1"


rule defenses:
    """All defended models."""
    input:
        GRAPH.weights(GRAPH.defended),
    localrule: True
