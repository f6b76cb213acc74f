"""Rows of the tables of backdoors, as they stand in the files; fractions, NaN where nothing was measured."""

from dataclasses import dataclass

from deconfound.report.rows import Cell


@dataclass(frozen=True, kw_only=True)
class Backdoor(Cell):
    """A row of backdoor.csv: what a poison still achieves under a defense, and what the defense gains and costs."""

    control: str
    asr: float
    asr_low: float
    asr_high: float
    clean_accuracy: float
    clean_accuracy_low: float
    clean_accuracy_high: float
    triggered_accuracy: float
    triggered_accuracy_low: float
    triggered_accuracy_high: float
    target_recall: float
    target_recall_low: float
    target_recall_high: float
    cross_accuracy: float
    cross_accuracy_low: float
    cross_accuracy_high: float
    der: float
    der_low: float
    der_high: float
    rir: float
    rir_low: float
    rir_high: float
    worst_class_drop: float
    training_cost: float
    seeds: int
    gate: str


@dataclass(frozen=True, kw_only=True)
class Cross(Cell):
    """A row of cross.csv: a training set and a defense, under attack at test time and under the trigger."""

    norm: str
    eps: float
    clean_accuracy: float
    clean_accuracy_low: float
    clean_accuracy_high: float
    robust_accuracy: float
    robust_accuracy_low: float
    robust_accuracy_high: float
    asr: float
    asr_low: float
    asr_high: float
    triggered_accuracy: float
    triggered_accuracy_low: float
    triggered_accuracy_high: float
    seeds: int
    gate: str


@dataclass(frozen=True, kw_only=True)
class Detection(Cell):
    """A row of detection.csv: what a detector finds; look: at training `examples`, test `inputs`, the `model`, or what
    a `defense` sets apart itself.
    """

    detector: str
    look: str
    auroc: float
    auroc_low: float
    auroc_high: float
    detection_rate: float
    detection_rate_low: float
    detection_rate_high: float
    false_alarm_rate: float
    false_alarm_rate_low: float
    false_alarm_rate_high: float
    precision: float
    precision_low: float
    precision_high: float
    recall: float
    recall_low: float
    recall_high: float
    detected_at_1: float
    false_alarms_at_1: float
    detected_at_10: float
    false_alarms_at_10: float
    share: float
    left: float
    anomaly: float
    accused: float
    accused_any: float
    target_anomaly: float
    target_accused: float
    seeds: int
    gate: str
