"""The vocabulary of the report: how methods, metrics, measures and verdicts are called, and what they mean."""

from collections.abc import Mapping

CAPITALS = (
    "abl adml anp apgd asr auc auroc awp bim cbd clp cnn cw dbd ddn der dlr eot erm fab fgsm gtsrb help kl l1 l2 mart"
    " mi mim mnist nad namid nc pgd rir sig strip svhn trades wmim"
)
CASING = {
    **{word: word.upper() for word in CAPITALS.split()},
    "autoattack": "AutoAttack",
    "badnets": "BadNets",
    "blend": "Blend",
    "bpp": "Bpp",
    "causaladv": "CausalAdv",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "deepfool": "DeepFool",
    "ftrojan": "FTrojan",
    "linf": "L∞",
    "resnet": "ResNet",
    "square": "Square",
    "tact": "TaCT",
    "trojan": "Trojan",
    "wanet": "WaNet",
    "wasserstein": "Wasserstein",
}
HYPHENATED = {
    "adap_blend": "Adap-Blend",
    "adap_patch": "Adap-Patch",
    "apgd_cross_entropy": "APGD-CE",
    "apgd_dlr": "APGD-DLR",
    "apgd_targeted": "APGD-T",
    "causaladv_m": "CausalAdv-M",
    "causaladv_t": "CausalAdv-T",
    "fab_targeted": "FAB-T",
    "i_bau": "I-BAU",
    "input_aware": "Input-aware",
    "namid_m": "NAMID-M",
    "namid_t": "NAMID-T",
    "neural_cleanse": "Neural Cleanse",
    "scale_up": "SCALE-UP",
    "ti_dim": "TI-DIM",
}
WHOLE = {
    "do_style": "do(style)",
    "none": "no attack",
    "worst_case": "worst case",
    "clean": "not poisoned",
    "pgd_margin": "PGD on the margin",
}
VARIANTS: Mapping[str, Mapping[str, str]] = {
    "CausalAdv": {
        "random": "random basis",
        "identity": "identity as basis",
        "reshuffled": "reshuffled basis",
        "sequential": "basis one by one",
        "detached": "detached target",
        "ramped": "ramped attack weights",
        "linear": "linear head",
        "isotropic": "isotropic covariance",
        "natural": "with clean cross-entropy",
    },
    "ADML": {
        "continued": "further training only",
        "clean": "without causal term",
        "without clean": "without clean loss",
        "nosplit": "without split",
        "true": "part of the true class",
        "fooled": "part of the fooled class",
        "mean d2": "mean over the half",
        "contrast": "contrast form",
        "trades": "on TRADES",
        "mart": "on MART",
        "awp": "on AWP",
        "help": "on HELP",
    },
    "NAMID": {
        "random": "untrained estimators",
        "shuffled": "shuffled patterns",
        "no natural": "without natural part",
        "no adversarial": "without adversarial part",
        "eq5": "estimators of Eq. 5",
        "max only": "maximised estimators",
    },
}
GREEK = {"alpha": "α", "beta": "β", "lambda": "λ", "tau": "τ"}
NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1", "wasserstein": "Wasserstein"}
DAGGER = "†"
METRICS: Mapping[str, tuple[str, str]] = {
    "clean_accuracy": ("clean accuracy", "untouched test images classified right"),
    "robust_accuracy": ("robust accuracy", "test images that stay right under an attack within its budget"),
    "asr": (
        "attack success rate",
        "triggered images, not of the target class, classified as the target (a defense wants it low)",
    ),
    "triggered_accuracy": (
        "triggered accuracy",
        "triggered images still given their true class (a defense wants it high)",
    ),
    "target_recall": (
        "target recall",
        "untouched images of the target class recognised (a defense that refuses the class loses it)",
    ),
    "cross_accuracy": (
        "cross accuracy",
        "images with a harmless look-alike of the trigger classified right (low: the trigger is no precise key)",
    ),
    "detection_rate": (
        "detection rate",
        "triggered images that a detector flags, at a threshold that flags 5 % of held-out clean images (higher is "
        "better)",
    ),
    "false_alarm_rate": (
        "false alarm rate",
        "untouched test images that it flags at the same threshold (lower is better; 5 % is intended)",
    ),
}
MEASURES: Mapping[str, str] = {
    "style_kl": "style KL",
    "output_kl": "output KL",
    "style_accuracy_clean": "style accuracy, clean",
    "style_accuracy_adversarial": "style accuracy, attacked",
    "theta_logp": "θ, log-probability",
    "theta_margin": "θ, margin",
    "theta_logp_rank": "order of θ, log-probability",
    "theta_margin_rank": "order of θ, margin",
    "theta_contrast_rank": "order of θ, contrast",
    "bottom3": "three worst classes",
    "top3": "three best classes",
    "logp_auc": "AUC, log-probability",
    "natural_auc": "AUC, natural",
    "adversarial_auc": "AUC, adversarial",
    "natural_auc_gain": "AUC gain, natural",
    "adversarial_auc_gain": "AUC gain, adversarial",
    "shuffled_natural_auc": "AUC, natural, shuffled",
    "shuffled_adversarial_auc": "AUC, adversarial, shuffled",
    "contrastive_natural_gain": "contrastive gain, natural",
    "contrastive_adversarial_gain": "contrastive gain, adversarial",
    "mi_clean_minus_adversarial": "clean minus attacked",
    "mi_adversarial_minus_mixed": "attacked minus mixed",
    "style_share": "style share",
    "worst_class_drop": "worst class's drop",
    "undefended_asr": "control's ASR",
    "clean_images": "clean images",
    "biased_auroc": "AUROC, biased network",
    "biased_loss_poisoned": "biased loss, poisoned",
    "biased_loss_clean": "biased loss, clean",
    "first_weight_ratio": "weight of poison, first epoch",
}
MEANINGS: Mapping[str, str] = {
    "der": "Defense effectiveness rating: half of one plus the fall of the attack success rate minus the loss of clean "
    "accuracy, both against the control of the same seed. 50 %: nothing changed; 100 %: a perfect attack undone at no "
    "cost. Higher is better.",
    "rir": "Robustness improvement rating: the same with the rise of triggered accuracy. 50 %: nothing changed. Higher "
    "is better.",
    "worst_class_drop": "The largest loss of clean accuracy in a class, against the control of the same seed, in "
    "points. Lower is better.",
    "training_cost": "Images that the run's own training sent through the network, in plain trainings. Lower is "
    "cheaper.",
    "clean_images": "Held-out clean images that the defense was given.",
    "undefended_asr": "Attack success rate of the control of the same seed: whether there was anything to remove.",
    "biased_auroc": "Chance that a poisoned training example has a lower loss in the biased network than a clean one: "
    "50 % is a coin. Higher: the network knows the poison.",
    "biased_loss_poisoned": "Median loss of poisoned training examples in the biased network, in nats.",
    "biased_loss_clean": "The same of clean training examples.",
    "first_weight_ratio": "Mean weight of poisoned training examples over that of clean ones after the first epoch. "
    "Lower: the poison counts for less.",
}
PARTS: Mapping[str, tuple[str, str]] = {
    "auroc": (
        "AUROC",
        "chance that something poisoned is scored higher than something clean: 50 % is a coin, higher "
        "is better",
    ),
    "precision": (
        "precision",
        "of the training examples set apart, the share that is poisoned; higher is better",
    ),
    "recall": ("recall", "of the poisoned training examples, the share that was set apart; higher is better"),
    "share": ("set apart", "share of all training examples that was set apart"),
    "left": ("poison left", "share of poison among the training examples that remain; lower is better"),
    "detected_at_1": (
        "detected at 1 %",
        "the detection rate at a threshold that flags 1 % of held-out images",
    ),
    "false_alarms_at_1": ("false alarms at 1 %", "the false alarm rate at that threshold"),
    "detected_at_10": (
        "detected at 10 %",
        "the detection rate at a threshold that flags 10 % of held-out images",
    ),
    "false_alarms_at_10": ("false alarms at 10 %", "the false alarm rate at that threshold"),
    "target_anomaly": (
        "anomaly of the target",
        "how far the class that the attacker wants stands out, in deviations from the median class; higher is better",
    ),
    "target_accused": ("target accused", "share of seeds in which that class is accused; higher is better"),
    "anomaly": (
        "highest anomaly",
        "the same of the class that stands out most, whether or not it is the target",
    ),
    "accused": ("classes accused", "number of classes that are accused; on clean data each is a false alarm"),
    "accused_any": (
        "any class accused",
        "share of seeds in which some class is accused; on clean data a false alarm",
    ),
}
"""What a detector, or a defense that sets training examples apart, leaves behind its name."""
RATED = ("auroc", "precision", "recall", "share", "left", "_at_1", "_at_10", "target_accused", "accused_any")
NATS = ("style_kl", "output_kl", "theta_logp", "biased_loss_poisoned", "biased_loss_clean")
SHARES = (
    "class_spread",
    "worst_class",
    "bottom3",
    "top3",
    "style_accuracy_clean",
    "style_accuracy_adversarial",
    "der",
    "rir",
)
POINTS = ("style_gap", "robust_overfitting", "worst_class_drop")  # differences of rates, like every `_gain`
VERDICTS: Mapping[str, tuple[str, str]] = {
    "supported": ("supported", "the whole interval lies beyond the margin"),
    "contradicted": ("contradicted", "the whole interval falls short of the margin"),
    "inconclusive": ("inconclusive", "the interval contains the margin, so these data cannot decide"),
    "premise not met": (
        "premise",
        "what the method presupposes did not hold here, so the claim was not tested",
    ),
    "gate not passed": (
        "gate",
        "the trust gate failed for one of the sides, so the number can neither support nor refute anything",
    ),
    "not run at this scale": ("notrun", "this experiment has no cell for the claim"),
}
