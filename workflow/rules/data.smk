rule fetch:
    """Fetch or make a data set and cut it into train, val and test."""
    output:
        collect("data/clean/{{dataset}}/{split}.npz", split=["train", "val", "test"]),
    log:
        "logs/fetch/{dataset}.log",
    benchmark:
        "timings/fetch/{dataset}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=60,
    params:
        spec=GRAPH.fetch_spec,
        code=GRAPH.fetch_code,
    message:
        "Fetching {wildcards.dataset}"
    shell:
        "python -m deconfound fetch --spec {params.spec:q} --out data/clean/{wildcards.dataset}"
        " --code {params.code} > {log} 2>&1"


rule poison:
    """Poison a training set, and stamp the test set for scoring."""
    input:
        train="data/clean/{dataset}/train.npz",
        test="data/clean/{dataset}/test.npz",
    output:
        sets="data/poisoned/{dataset}/{poison}/seed{seed}.npz",
        manifest="data/poisoned/{dataset}/{poison}/seed{seed}.json",
    log:
        "logs/poison/{dataset}/{poison}/seed{seed}.log",
    benchmark:
        "timings/poison/{dataset}/{poison}/seed{seed}.tsv"
    threads: 1
    resources:
        gpu=1,
        mem_mb=6000,
        runtime=120,
    params:
        spec=GRAPH.poison_spec,
        code=GRAPH.poison_code,
    message:
        "Poisoning {wildcards.dataset} with {wildcards.poison}, seed {wildcards.seed}"
    shell:
        "python -m deconfound poison --train {input.train} --test {input.test} --spec {params.spec:q}"
        " --seed {wildcards.seed} --out {output.sets} --threads {threads} --gpu {resources.gpu}"
        " --code {params.code} > {log} 2>&1"


rule data:
    """All splits and poisoned sets."""
    input:
        GRAPH.data,
    localrule: True
