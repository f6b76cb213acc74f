"""One module per rule of the graph: read the inputs, call the package, write the outputs."""
