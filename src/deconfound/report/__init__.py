"""The report: result tables and run records in, one HTML and one PDF out; never loads a model."""
