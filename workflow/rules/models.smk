rule train:
    """Base training: the undefended model that every comparison starts from."""
    input:
        train=GRAPH.training_set,
        val="data/clean/{dataset}/val.npz",
    output:
        weights=f"checkpoints/base/{RUN}/model.safetensors",
        about=f"checkpoints/base/{RUN}/run.json",
        trace=f"checkpoints/base/{RUN}/trace.npz",
        parts=f"checkpoints/base/{RUN}/parts.safetensors",
    log:
        f"logs/train/{RUN}.log",
    benchmark:
        f"timings/train/{RUN}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=6000,
        runtime=240,
    params:
        spec=GRAPH.train_spec,
        run=GRAPH.run_text,
        folder=GRAPH.model_folder,
        code=GRAPH.train_code,
    message:
        f"Training {JOB}"
    shell:
        "python -m deconfound train --train {input.train} --val {input.val} --spec {params.spec:q}"
        " --run {params.run:q} --out {params.folder} --threads {threads} --gpu {resources.gpu}"
        " --code {params.code} > {log} 2>&1"


rule models:
    """All base models."""
    input:
        GRAPH.weights(GRAPH.base),
    localrule: True
