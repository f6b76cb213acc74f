"""Numbers and names as the report writes them."""

import dataclasses
import math

import pytest

from deconfound.report.rows import Claim
from deconfound.report.words import (
    Order,
    amount,
    budget,
    in_points,
    interval,
    is_rate,
    label,
    listing,
    margin,
    metric_label,
    number,
    radius,
    ranks,
    unit,
    value_unit,
)

NARROW = "\N{NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("value", "rate", "sign", "text"),
    [
        (0.7132, True, False, "71.3"),
        (1.0, True, False, "100.0"),
        (-0.0304, True, True, "−3.0"),
        (0.5, True, True, "+50.0"),
        (-0.0001, True, True, "0.0"),
        (0.98765, False, False, "0.9877"),
        (12.345, False, False, "12.3"),
        (0.00012, False, True, "+0.00012"),
        (math.nan, True, False, "–"),
    ],
)
def test_numbers_have_one_decimal_a_real_minus_and_no_signed_zero(
    value: float, rate: bool, sign: bool, text: str
) -> None:
    assert number(value, rate=rate, sign=sign) == text


def test_an_interval_without_ends_is_empty() -> None:
    assert interval(0.66, 0.761) == "66.0 to 76.1"
    assert interval(math.nan, 0.5) == ""
    assert interval(-math.inf, math.inf) == "no bounds from one seed"


@pytest.mark.parametrize(
    ("eps", "text"), [(0.2, "0.2"), (8 / 255, "8/255"), (0.031372549, "8/255"), (1.5, "1.5"), (0, "0")]
)
def test_a_radius_is_written_as_people_write_it(eps: float, text: str) -> None:
    assert radius(eps) == text


def test_a_budget_needs_a_norm() -> None:
    assert budget("linf", 0.2) == "L∞\N{NO-BREAK SPACE}0.2"
    assert budget("l1", 12.0) == "L1\N{NO-BREAK SPACE}12"
    assert budget("wasserstein", 0.01) == "Wasserstein\N{NO-BREAK SPACE}0.01"
    assert budget("", 0.0) == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("adversarial_training", "adversarial training"),
        ("cbd_shuffled", "CBD shuffled"),
        ("badnets", "BadNets"),
        ("pgd_l2", "PGD L2"),
        ("my_own_method", "my own method"),
        ("bim", "BIM"),
        ("mim", "MIM"),
        ("apgd", "APGD"),
        ("apgd_targeted", "APGD-T"),
        ("apgd_targeted_l2", "APGD-T L2"),
        ("fab", "FAB"),
        ("square", "Square"),
        ("autoattack", "AutoAttack"),
        ("cw_l2", "CW L2"),
        ("ddn", "DDN"),
        ("deepfool", "DeepFool"),
        ("ti_dim", "TI-DIM"),
        ("pgd_l1", "PGD L1"),
        ("wasserstein", "Wasserstein"),
        ("multi_dim", "multi dim"),
        ("adaptive", "adaptive"),
        ("pgd_margin", "PGD on the margin"),
        ("causaladv_m", "CausalAdv-M"),
        ("causaladv_t_reshuffled", "CausalAdv-T, reshuffled basis"),
        ("causaladv_m_alpha025", "CausalAdv-M, α = 0.25"),
        ("namid_t", "NAMID-T"),
        ("namid_alpha10", "NAMID, α = 10"),
        ("namid_m_alpha0", "NAMID-M, α = 0"),
        ("namid_no_natural", "NAMID, without natural part"),
        ("adml", "ADML"),
        ("adml_clean", "ADML, without causal term"),
        ("adml_without_clean", "ADML, without clean loss"),
        ("adml_trades_clean", "ADML on TRADES, without causal term"),
        ("adml_unheard_of", "ADML unheard of"),
        ("trades_alpha0", "TRADES alpha0"),
        ("mart", "MART"),
        ("awp", "AWP"),
        ("help", "HELP"),
        ("wmim", "WMIM"),
        ("wanet", "WaNet"),
        ("input_aware", "Input-aware"),
        ("adap_blend", "Adap-Blend"),
        ("ftrojan", "FTrojan"),
        ("label_consistent", "label consistent"),
        ("i_bau", "I-BAU"),
        ("nad", "NAD"),
        ("neural_cleanse", "Neural Cleanse"),
        ("scale_up", "SCALE-UP"),
    ],
)
def test_names_read_as_prose_even_when_nobody_listed_them(name: str, text: str) -> None:
    assert label(name) == text


def test_lists_read_as_sentences() -> None:
    assert [listing([]), listing(["a"]), listing(["a", "b", "c"])] == ["", "a", "a, b and c"]


def test_order_follows_the_configuration_with_the_undefended_first_and_the_worst_case_last() -> None:
    order = Order({"defenses": ["z", "a", "standard"], "attacks": {"pgd": {}, "fgsm": {}}})
    defenses = sorted(["b", "a", "z", "standard"], key=lambda name: order.key("defenses", name))
    attacks = sorted(["worst_case", "fgsm", "none", "pgd"], key=lambda name: order.key("attacks", name))
    assert defenses == ["standard", "z", "a", "b"]
    assert attacks == ["none", "pgd", "fgsm", "worst_case"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (23.25, "23.2"), (341.3, "341"), (1234567.0, "1_234_567")]
)
def test_amounts_have_narrow_spaces_and_a_decimal_only_where_small(value: float, text: str) -> None:
    assert amount(value) == text.replace("_", "\N{NARROW NO-BREAK SPACE}")


def test_a_rank_is_a_range_or_a_place() -> None:
    assert [ranks(0, 0), ranks(1, 1), ranks(1, 3)] == [
        "",
        "rank\N{NO-BREAK SPACE}1",
        "rank\N{NO-BREAK SPACE}1–3",
    ]


@pytest.mark.parametrize(
    ("metric", "text", "of_value", "of_difference"),
    [
        ("clean_accuracy", "clean accuracy", f"{NARROW}%", " points"),
        ("worst_class", "worst class", f"{NARROW}%", " points"),
        ("bottom3", "three worst classes", f"{NARROW}%", " points"),
        ("top3", "three best classes", f"{NARROW}%", " points"),
        ("class_spread", "class spread", f"{NARROW}%", " points"),
        ("style_accuracy_adversarial", "style accuracy, attacked", f"{NARROW}%", " points"),
        ("logp_auc", "AUC, log-probability", f"{NARROW}%", " points"),
        ("natural_auc_frozen", "AUC, natural, own estimators", f"{NARROW}%", " points"),
        ("style_gap", "style gap", " points", " points"),
        ("natural_auc_gain", "AUC gain, natural", " points", " points"),
        ("robust_overfitting", "robust overfitting", " points", " points"),
        ("style_kl", "style KL", " nats", " nats"),
        ("output_kl", "output KL", " nats", " nats"),
        ("theta_logp", "θ, log-probability", " nats", " nats"),
        ("theta_margin", "θ, margin", "", ""),
        ("natural_gap", "natural gap", "", ""),
        ("natural_gap_frozen", "natural gap, own estimators", "", ""),
        ("style_share", "style share", "", ""),
        ("theta_logp_rank", "order of θ, log-probability", "", ""),
        ("der", "DER", f"{NARROW}%", " points"),
        ("rir", "RIR", f"{NARROW}%", " points"),
        ("worst_class_drop", "worst class's drop", " points", " points"),
        ("training_cost", "training cost", " plain trainings", " plain trainings"),
        ("detection_rate", "detection rate", f"{NARROW}%", " points"),
        ("biased_auroc", "AUROC, biased network", f"{NARROW}%", " points"),
        ("biased_loss_clean", "biased loss, clean", " nats", " nats"),
        ("strip_auroc", "STRIP, AUROC", f"{NARROW}%", " points"),
        ("strip_detected_at_1", "STRIP, detected at 1 %", f"{NARROW}%", " points"),
        ("scale_up_false_alarms_at_10", "SCALE-UP, false alarms at 10 %", f"{NARROW}%", " points"),
        ("isolated_left", "isolated, poison left", f"{NARROW}%", " points"),
        ("flagged_share", "flagged, set apart", f"{NARROW}%", " points"),
        ("neural_cleanse_anomaly", "Neural Cleanse, highest anomaly", "", ""),
        ("neural_cleanse_target_anomaly", "Neural Cleanse, anomaly of the target", "", ""),
        ("neural_cleanse_target_accused", "Neural Cleanse, target accused", f"{NARROW}%", " points"),
        ("neural_cleanse_accused", "Neural Cleanse, classes accused", "", ""),
    ],
)
def test_a_measure_has_a_name_and_a_unit(metric: str, text: str, of_value: str, of_difference: str) -> None:
    assert metric_label(metric) == text
    assert value_unit(metric) == unit(claim(metric, "")) == of_value
    assert unit(claim(metric, "standard")) == of_difference
    assert is_rate(metric) == (of_difference == " points")
    assert in_points(metric) == (of_value == " points")


def test_a_margin_of_nothing_has_no_sign() -> None:
    assert margin(claim("style_kl", "standard")) == "below 0 nats"
    assert margin(claim("style_gap", "standard")) == "below 0.0 points"


def claim(metric: str, control: str) -> Claim:
    words = {field.name: "" for field in dataclasses.fields(Claim)}
    numbers = dict.fromkeys(("effect", "low", "high", "margin", "property"), 0.0)
    return Claim(**{**words, **numbers, "metric": metric, "control": control, "direction": "below"})
