"""Evasion attacks, and attacks on explanations. Each table maps a kind to its class."""

ATTACKS = {
    "fgsm": "deconfound.attacks.fgsm:FGSM",
    "bim": "deconfound.attacks.bim:BIM",
    "pgd": "deconfound.attacks.pgd:PGD",
    "mim": "deconfound.attacks.mim:MIM",
    "adaptive": "deconfound.attacks.adaptive:AdaptivePGD",
    "eot": "deconfound.attacks.eot:EOT",
    "apgd": "deconfound.attacks.apgd:APGD",
    "apgd_targeted": "deconfound.attacks.apgd_targeted:TargetedAPGD",
    "fab": "deconfound.attacks.fab:FAB",
    "square": "deconfound.attacks.square:Square",
    "autoattack": "deconfound.attacks.autoattack:AutoAttack",
    "cw_l2": "deconfound.attacks.cw_l2:CarliniWagner",
    "ddn": "deconfound.attacks.ddn:DDN",
    "deepfool": "deconfound.attacks.deepfool:DeepFool",
    "ti_dim": "deconfound.attacks.ti_dim:TIDIM",
    "wasserstein": "deconfound.attacks.wasserstein:FrankWolfeWasserstein",
    "transfer": "deconfound.attacks.transfer:Transfer",
    "jsma": "deconfound.attacks.jsma:JSMA",
    "universal": "deconfound.attacks.universal:Universal",
    "feature_adversary": "deconfound.attacks.feature_adversary:FeatureAdversary",
    "attention": "deconfound.attacks.attention:AttentionAttack",
    "substitute": "deconfound.attacks.substitute:Substitute",
    "patch_ranking": "deconfound.attacks.patch_ranking:PatchRanking",
}

EXPLANATION_ATTACKS = {
    "fragile": "deconfound.attacks.fragile:Fragile",
}
