"""The runbook's commands: the same on Compose, systemd, supervisor and the embedded way.

Python's standard library alone, so that they run wherever a Python is. `deployment.find` says which
of the four ways runs here; `Deployment` is what a command may ask of it.
"""
