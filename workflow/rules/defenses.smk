rule craft:
    """Attack a training set on a trained model, for a defense that learns from what comes back."""
    input:
        model=GRAPH.model_files,
        train=GRAPH.training_set,
    output:
        f"data/crafted/{RUN}/{{attack}}.npz",
    log:
        f"logs/craft/{RUN}/{{attack}}.log",
    benchmark:
        f"timings/craft/{RUN}/{{attack}}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=6000,
        runtime=240,
    params:
        spec=GRAPH.attack_spec,
        folder=GRAPH.model_folder,
        code=GRAPH.attack_code,
    message:
        f"Crafting training images on {JOB} with {{wildcards.attack}}"
    shell:
        "python -m deconfound attack --model {params.folder} --images {input.train} --spec {params.spec:q}"
        " --name {wildcards.attack} --seed {wildcards.seed} --out {output} --threads {threads}"
        " --gpu {resources.gpu} --code {params.code} > {log} 2>&1"


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
        parts=f"checkpoints/defended/{RUN}/parts.safetensors",
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
