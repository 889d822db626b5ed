"""The scripts of `vestal completion`, one module a shell, each written from `vestal.cli.places`.

A script is static: Tab starts no Python, but where a name is to be told, and then `vestal completion names KIND…`. It
asks the `vestal` that stands on the command line, in the directory that `--runtime-dir` there names.
"""
