"""The command line: `anydiff train`, `sample`, `inpaint`, `edit`, `interpolate`, `evaluate`, `info`.

Every command is a function; its flags, their types and their help are its signature and its docstring.
What is heavy is imported when a command runs.
"""
