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
        "data/poisoned/{dataset}/{poison}/seed{seed}.npz",
    log:
        "logs/poison/{dataset}/{poison}/seed{seed}.log",
    benchmark:
        "timings/poison/{dataset}/{poison}/seed{seed}.tsv"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        spec=GRAPH.poison_spec,
        code=GRAPH.poison_code,
    message:
        "Poisoning {wildcards.dataset} with {wildcards.poison}, seed {wildcards.seed}"
    shell:
        "python -m deconfound poison --train {input.train} --test {input.test} --spec {params.spec:q}"
        " --seed {wildcards.seed} --out {output} --code {params.code} > {log} 2>&1"


rule data:
    """All splits and poisoned sets."""
    input:
        GRAPH.data,
    localrule: True
