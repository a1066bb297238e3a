"""The command line: `anydiff train`, `distill`, `sample`, `inpaint`, `edit`, `interpolate` and others.

Every command is a function; its flags, their types and their help are its signature and its docstring.
What is heavy is imported when a command runs.
"""
