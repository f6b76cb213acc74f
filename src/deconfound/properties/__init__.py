"""What else a paper says of a trained model, as something to measure. A table maps a kind to its class."""

PROPERTIES = {
    "alignment": "deconfound.properties.alignment:Alignment",
    "vulnerability": "deconfound.properties.vulnerability:Vulnerability",
    "mutual_information": "deconfound.properties.mutual_information:MutualInformation",
}
