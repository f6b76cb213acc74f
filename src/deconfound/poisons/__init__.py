"""Poisons: who is edited and how. A table maps a kind to its class."""

POISONS = {
    "badnets": "deconfound.poisons.badnets:BadNets",
    "trojan": "deconfound.poisons.trojan:Trojan",
    "blend": "deconfound.poisons.blend:Blend",
    "sig": "deconfound.poisons.sig:SIG",
    "wanet": "deconfound.poisons.wanet:WaNet",
    "low_frequency": "deconfound.poisons.low_frequency:LowFrequency",
    "ftrojan": "deconfound.poisons.ftrojan:FTrojan",
    "bpp": "deconfound.poisons.bpp:Bpp",
    "adap_blend": "deconfound.poisons.adap_blend:AdapBlend",
    "adap_patch": "deconfound.poisons.adap_patch:AdapPatch",
    "tact": "deconfound.poisons.tact:TaCT",
    "trojan_optimised": "deconfound.poisons.trojan_optimised:TrojanOptimised",
    "label_consistent": "deconfound.poisons.label_consistent:LabelConsistent",
    "input_aware": "deconfound.poisons.input_aware:InputAware",
    "slow_injection": "deconfound.poisons.slow_injection:SlowInjection",
}
