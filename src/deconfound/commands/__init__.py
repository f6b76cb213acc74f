"""The subcommands, one per rule of the graph: parse, call, write."""
