"""The command line: each command parses, calls the package, and prints."""
