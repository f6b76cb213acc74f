rule attack:
    """Craft adversarial images on a trained model and keep them, for transfer and for the report."""
    input:
        model=GRAPH.model_files,
        test="data/clean/{dataset}/test.npz",
    output:
        f"data/adversarial/{RUN}/{{attack}}.npz",
    log:
        f"logs/attack/{RUN}/{{attack}}.log",
    benchmark:
        f"timings/attack/{RUN}/{{attack}}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=6000,
        runtime=120,
    params:
        spec=GRAPH.attack_spec,
        folder=GRAPH.model_folder,
        code=GRAPH.attack_code,
    message:
        f"Attacking {JOB} with {{wildcards.attack}}"
    shell:
        "python -m deconfound attack --model {params.folder} --images {input.test} --spec {params.spec:q}"
        " --name {wildcards.attack} --seed {wildcards.seed} --out {output} --threads {threads}"
        " --gpu {resources.gpu} --code {params.code} > {log} 2>&1"


rule attacks:
    """All kept adversarial sets."""
    input:
        GRAPH.crafted,
    localrule: True
